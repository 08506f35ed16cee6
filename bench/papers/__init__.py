"""The experiments of the two papers that the method comes from, each one command: `python -m bench.papers NAME`."""
