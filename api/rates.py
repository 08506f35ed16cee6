"""How fast one token may ask.

Kept in the process and not in the database: a write for every read would cost more than the request, and the limit is
there to protect the service from a client gone wild, not to bill it. So N replicas let a token through N times as fast.
"""

import time
from collections.abc import Callable

_MOST_REMEMBERED = 10_000


class Rates:
    """Token buckets by the generic cell rate algorithm: one number per caller, the time at which its bucket is full."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Bind.

        Args:
            per_second: what a bucket gains; 0 switches the limit off.
            burst: what a full bucket holds.
            clock: seconds.
        """
        self._interval = 1 / per_second if per_second else 0.0
        self._allowance = self._interval * burst
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def wait(self, caller: str) -> float:
        """Take one request out of the caller's bucket: 0, or how many seconds to wait where it is empty."""
        if not self._interval:
            return 0.0
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now) + self._interval
        wait = full_at - now - self._allowance
        if wait > 1e-9:
            return wait
        if len(self._full_at) >= _MOST_REMEMBERED:
            self._full_at = {name: full for name, full in self._full_at.items() if full > now}
        self._full_at[caller] = full_at
        return 0.0
