"""In how many threads a worker computes: known here to those, too, who are not to load torch for it."""

THREADS = 1
"""Of each worker: the order of sums must not depend on the machine."""
