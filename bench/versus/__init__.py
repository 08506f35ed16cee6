"""Peelbound beside the tools that people use today: one run, one checkpoint, the same tokens, an environment each."""
