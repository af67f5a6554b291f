"""What the networks of the papers cost to train and to sample from, computed and not measured."""
