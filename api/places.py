"""How much of a kind one tenant may have under way at a replica, so that there is some left for the others.

Kept in the process, as rates are: what is bounded is what the process itself holds.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from peelbound.api.errors import TenantBusy

RETRY_SECONDS = 5


class Places:
    """So many for each tenant; belongs to one event loop.

    Args:
        kind: what takes them, in the plural, for people.
        most: of each tenant.
    """

    def __init__(self, kind: str, most: int) -> None:
        self._kind = kind
        self._most = most
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """Hold a place until the block is left.

        Raises:
            TenantBusy: the tenant has none left.
        """
        if self._taken[tenant] >= self._most:
            raise TenantBusy(
                f"The tenant has {self._most} {self._kind} under way at this replica, as many as it may have.",
                remedy="Try again when some of them have ended.",
                retry_after=RETRY_SECONDS,
            )
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]
