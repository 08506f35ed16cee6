"""The state directory of the embedded service: its token, and whether it runs and where.

A running service holds a lock on the directory and writes its address beside it. The lock goes with the process, so a
leftover address is never trusted: another user's program may listen there by now.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from peelbound.errors import EndpointInvalid, ServiceStarting

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: no service can run here, and the client can use one elsewhere
    fcntl = None

PRIVATE_UMASK = 0o077
LOOK_SECONDS = 0.05
"""Between looks at another process's lock or address."""
LOCK_TRIES = 5
STARTING_LOOKS = 100
"""For as long as a service mostly takes from its lock to its address, and some more."""
_MARKS = frozenset({"lock", "own-audits.lock", "peelbound.db"})
"""Files by which a state directory is known: a service's, that of calls with services of their own, any database's."""
_INDIFFERENT = frozenset({"objects", "lost+found"})
"""Directories that say nothing of another use: a store's alone, and what a file system is made with."""


def default_state_dir() -> Path:
    """`PEELBOUND_STATE_DIR`, or the platform's place for a user's state.

    Raises:
        EndpointInvalid: it begins with the home of a user who is not known.
    """
    configured = os.environ.get("PEELBOUND_STATE_DIR")
    if not configured:
        return user_state_path("peelbound")
    try:
        return Path(configured).expanduser().absolute()
    except RuntimeError as error:
        raise EndpointInvalid(f"PEELBOUND_STATE_DIR is no path: {error}") from error


def read_token(state_dir: Path) -> str | None:
    """The service's token for programs, or None before its first start, or where we may not read it."""
    return _read(state_dir / "token")


def make_private(state_dir: Path) -> None:
    """Make the directory, which only its owner can look into (mode 0700).

    One that is there and open to others is closed to them if it is known for a state directory, or as good as empty.
    Other files in it may be meant for those others, and are not for us to hide.

    Raises:
        StartFailed: it cannot be made, belongs to somebody else, or is open to others and holds other files.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        open_to_others = state_dir.stat().st_mode & 0o077
        names = {path.name for path in state_dir.iterdir()} if open_to_others else set()
        if names - _INDIFFERENT and not names & _MARKS:
            raise StartFailed(
                f"{state_dir} holds files that are not Peelbound's, and others can look into it. Name a directory of "
                f"its own (--state-dir, PEELBOUND_STATE_DIR), or close this one to others: chmod 700 {state_dir}"
            )
        state_dir.chmod(0o700)  # also finds out whether it is ours
    except OSError as error:
        raise StartFailed(f"{state_dir} cannot be a private state directory: {error.strerror}.") from error


@contextmanager
def private_files() -> Iterator[None]:
    """What is made in this block can be read by its owner only; for before threads are started, which share the mask.

    SQLite gives the files that it later lays beside a database the mode of the database.
    """
    before = os.umask(PRIVATE_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def ensure_secret(path: Path) -> str:
    """The secret in a file that only its owner can read; made on the first call."""
    make_private(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        secret = f"peel_{secrets.token_urlsafe(32)}"
        file.write(secret + "\n")
    return secret


def is_held(state_dir: Path) -> bool:
    """Whether a service holds this state directory: it runs, or is about to. No, where we may not look inside."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(state_dir / "lock", os.O_RDONLY)
    except OSError:  # none yet, not ours, or a home that is no directory, as containers have it
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: nobody can hold it
        return False
    finally:
        os.close(descriptor)
    return False


def running_url(state_dir: Path) -> str | None:
    """The address of the service that runs on this state directory, or None; also where we may not look inside."""
    return _read(state_dir / "url") if is_held(state_dir) else None


def awaited_url(state_dir: Path, *, patient: bool = True) -> str | None:
    """As `running_url`, of a service that may just be starting.

    Args:
        state_dir: the state directory.
        patient: whether to wait for it, a few seconds.

    Raises:
        ServiceStarting: it has not said where it answers for as long as we wait.
    """
    for left in reversed(range(STARTING_LOOKS if patient else 1)):
        if not is_held(state_dir):
            return None
        if (url := _read(state_dir / "url")) is not None:
            return url
        if left:
            time.sleep(LOOK_SECONDS)
    raise ServiceStarting(f"The service on {state_dir} is starting and does not answer yet; try again.")


class StartFailed(Exception):
    """The embedded service could not start; the message says why."""


class StateDirBusy(StartFailed):
    """Another service runs on this state directory."""


@contextmanager
def holding(state_dir: Path) -> Iterator[None]:
    """Hold the state directory for one service.

    Raises:
        StateDirBusy: another process holds it.
        StartFailed: it cannot be made private, or this system has no locks.
    """
    if fcntl is None:
        raise StartFailed(
            "No service can run on this system (Windows): use its Linux subsystem, or a service elsewhere, with "
            "PEELBOUND_URL and PEELBOUND_TOKEN."
        )
    make_private(state_dir)
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _locked(descriptor):
            raise StateDirBusy(f"A service already runs on {state_dir}.")
        (state_dir / "url").unlink(missing_ok=True)
        try:
            yield
        finally:
            (state_dir / "url").unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock the file, unless another service holds it; one that only looks whether one does lets go at once."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_SECONDS)
        else:
            return True
    return False


def publish_url(state_dir: Path, url: str) -> None:
    """Say where the service that holds the directory answers."""
    partial = state_dir / "url.partial"
    partial.write_text(url + "\n", encoding="ascii")
    partial.replace(state_dir / "url")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except OSError:
        return None
