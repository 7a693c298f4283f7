"""What the examples are made of: a classifier, three kinds of model, three data sets and a report."""
