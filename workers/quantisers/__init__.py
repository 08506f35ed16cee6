"""Weight classes: what low-bit weights are, how dense ones are put on a grid, and how a grid is found in weights."""
