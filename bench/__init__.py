"""Measurements of Peelbound and the demo: run from a clone, not part of the installed package."""
