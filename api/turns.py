"""So much is done at once; who waits for a turn gets it after those of whom less is being done.

Kept in the process, as what is bounded is the process's own work.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import anyio


@dataclass(eq=False)
class _Wait:
    """Somebody's wait for a turn."""

    tenant: str
    over: anyio.Event = field(default_factory=anyio.Event)


class Turns:
    """Turns of tenants; belongs to one event loop.

    The next one is of the tenant that has the fewest, among equals of the one whose last turn began or ended, or which
    came, the longest ago. So a tenant that is alone has all of them, and one that asks for many leaves every
    second to another.

    Args:
        at_once: how many there are.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._held: Counter[str] = Counter()
        self._waits: list[_Wait] = []
        self._clock = count()
        self._since: dict[str, int] = {}

    @asynccontextmanager
    async def one(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it until the block is left."""
        wait = _Wait(tenant)
        self._waits.append(wait)
        self._since.setdefault(tenant, next(self._clock))
        try:
            self._give()
            await wait.over.wait()
            yield
        finally:  # also of a wait that was broken off, be it in the moment in which its turn came
            if wait.over.is_set():
                self._held[tenant] -= 1
                self._free += 1
                self._since[tenant] = next(self._clock)
            else:
                self._waits.remove(wait)
            self._give()
            if not self._held[tenant] and all(other.tenant != tenant for other in self._waits):
                del self._held[tenant], self._since[tenant]

    def _give(self) -> None:
        while self._free and self._waits:
            wait = min(self._waits, key=lambda wait: (self._held[wait.tenant], self._since[wait.tenant]))
            self._waits.remove(wait)
            self._free -= 1
            self._held[wait.tenant] += 1
            self._since[wait.tenant] = next(self._clock)
            wait.over.set()
