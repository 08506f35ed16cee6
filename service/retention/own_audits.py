"""Keeps collections away from audits whose services were started for one call, and the other way round.

Such a service keeps its rows in a database of its own and its results in the store of the state directory. So a
collection on the state directory's database cannot know that they are at work: it asks a lock, which they share and
which it takes alone. The lock goes with its processes.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from peelbound.workers.errors import InfrastructureError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: no service can run here, so that there are no such audits
    fcntl = None

T = TypeVar("T")

TENANT = "default"
"""Whose all audits of services on one machine are."""
_LOCK = "own-audits.lock"


@contextmanager
def at_work(state_dir: Path) -> Iterator[None]:
    """While a service of our own may look for results; begins once a collection that is under way has ended.

    Args:
        state_dir: exists, and is ours.

    Raises:
        InfrastructureError: the lock in it cannot be used, as when another user's command made it.
    """
    try:
        descriptor = os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InfrastructureError(f"{state_dir / _LOCK} cannot be used: {error.strerror}.") from error
    try:
        _flock(descriptor, exclusive=False, wait=True)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def excluded(state_dir: Path) -> Iterator[bool]:
    """While none is at work nor begins; False, and nothing is held, where one is.

    Where the state directory is not there, or not ours to write to, there are none of ours.
    """
    try:
        descriptor = os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield True
        return
    try:
        yield _flock(descriptor, exclusive=True, wait=False)
    finally:
        os.close(descriptor)


def spared(state_dir: Path, collect: Callable[[str], T]) -> Callable[[str], T]:
    """`collect`, a tenant's collection, but not where audits are at work that the database does not know.

    What it answers raises what `collect` does, and `InfrastructureError` for their tenant while one is at work.
    """

    def collect_if_alone(tenant: str) -> T:
        if tenant != TENANT:
            return collect(tenant)
        with excluded(state_dir) as alone:
            if not alone:
                raise InfrastructureError(
                    "`peelbound audit` is at work with a service of its own.", remedy="Collect when it has ended."
                )
            return collect(tenant)

    return collect_if_alone


def _flock(descriptor: int, *, exclusive: bool, wait: bool) -> bool:
    """Whether nothing speaks against it: another process's lock does; systems without locks (Windows, some file
    systems) do not."""
    if fcntl is None:
        return True
    how = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
