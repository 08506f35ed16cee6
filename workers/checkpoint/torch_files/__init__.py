"""Checkpoints that torch wrote: zip files with a pickle of what lies where, and directories of them."""
