"""Imports of what is large: torch, transformers and what they bring are five seconds of importing and nothing else."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """Import with the collector of garbage at rest, and let it pass over what was imported from then on.

    It would look through millions of objects again and again, none of which is garbage: a fifth of the time that the
    imports take.
    """
    if not gc.isenabled():  # whoever imports this one rests it already, or wants none
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
