"""Checkpoints: all of a file but the weights is checked first, then one block is read at a time."""
