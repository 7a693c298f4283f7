"""What examples/train.py is made of: a classifier, two kinds of model, three data sets and a report."""
