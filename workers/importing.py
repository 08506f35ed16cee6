"""Imports of what is large: torch, transformers and what they bring are five seconds of importing and nothing else."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """Import with the collector of garbage at rest, and let it pass over what was imported from then on.

    It would look through hundreds of thousands of objects again and again, a fifth of the time that the imports take.
    What little of them is garbage (8 MB) stays, as it would take 0.4 s to find.
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
