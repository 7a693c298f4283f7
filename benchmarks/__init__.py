"""What anyone can rerun: how many models work, how long preparing one takes, what a network for all widths is worth."""
