"""Ends a process whose holder has fallen silent.

Ray ends a worker whose driver has died. One whose driver is frozen, or cut off, would keep its CPU or GPU for as long
as that lasts, while another controller goes on with the audit and finds the cluster full.
"""

import os
import threading
import time
from collections.abc import Callable


def _end() -> None:
    os._exit(1)


class Leash:
    """Calls `end` once `heard` has not been called for `seconds`; the time begins with `start`."""

    def __init__(self, seconds: float, end: Callable[[], None] = _end) -> None:
        self._seconds, self._end = seconds, end
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="leash", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self.heard()
        self._thread.start()

    def heard(self) -> None:
        """The holder is there."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while (left := self._last + self._seconds - time.monotonic()) > 0:
            time.sleep(left)
        self._end()
