"""Peelbound audits transformer checkpoints: it peels them block by block and says what training left on the table."""

__version__ = "0.3.0"
