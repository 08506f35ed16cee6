"""Freed memory goes back to the system, so that a worker's size is that of its tasks and not of their history.

glibc's malloc keeps what is freed between two live allocations and raises by itself the size from which it maps memory
apart. Blocks of some megabytes that come and go, task after task, so leave a heap full of holes: after a walk of 64
references over 64 blocks it was five times as large as what was alive in it.
"""

import ctypes
import os
from pathlib import Path

SLACK_BYTES = 32 << 20
"""Freed memory that is left for the next task. To give back all of it every time costs page faults, a fifth of the time
of short tasks; this much costs nothing that can be measured."""

_PAGES = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Heap:
    """This process's private memory. Elsewhere than on Linux with glibc it does nothing."""

    def __init__(self, slack: int = SLACK_BYTES) -> None:
        """Take what is held now as the level to return to."""
        self._slack = slack
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _PAGES.exists() else None
        self._level = self.held()

    def settle(self) -> None:
        """Give back what is free, if more than the slack has gathered since the last time."""
        if self._trim is None:
            return
        held = self.held()
        if held > self._level + self._slack:
            self._trim(0)
            held = self._level = self.held()
        self._level = min(self._level, held)

    def trim(self) -> None:
        """Give back all that is free."""
        if self._trim is not None:
            self._trim(0)

    def held(self) -> int:
        """Resident private bytes; 0 where they cannot be told."""
        if self._trim is None:
            return 0
        _, resident, shared, *_ = map(int, _PAGES.read_text(encoding="ascii").split())
        return (resident - shared) * _PAGE_BYTES
