"""What lies below an allowed directory, reached without following any symlink.

A path that was resolved and checked can lead elsewhere a moment later: whoever may write to a directory on it can put a
symlink in its place. So the way from the allowed directory down is taken step by step, each from the handle of the one
before, and a symlink on it is an error (ENOTDIR or ELOOP). Nothing else leaves a directory downwards.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_STEP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""By O_PATH, where there is one, a directory is passed through that may not be listed."""


@contextmanager
def holder_of(path: Path, roots: Iterable[Path]) -> Iterator[int]:
    """A handle of the directory in which `path` lies, to be used with `dir_fd`.

    Args:
        path: resolved, and one of the roots or below one.
        roots: resolved. The outermost that holds the path is where the way begins: it may itself hold others.

    Raises:
        OSError: there is no such way now.
    """
    root = min((root for root in roots if path.is_relative_to(root)), key=lambda root: len(root.parts))
    handle = os.open(root.parent, _STEP & ~os.O_NOFOLLOW)  # whoever allowed the root answers for where it lies
    try:
        for step in path.relative_to(root.parent).parts[:-1]:
            deeper = os.open(step, _STEP, dir_fd=handle)
            os.close(handle)
            handle = deeper
        yield handle
    finally:
        os.close(handle)


@contextmanager
def opened_below(path: Path, roots: Iterable[Path], flags: int = 0) -> Iterator[int]:
    """A handle to read the file or directory at `path`; arguments and errors as for `holder_of`."""
    with holder_of(path, roots) as holder:
        handle = os.open(path.name or ".", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=holder)
    try:
        yield handle
    finally:
        os.close(handle)


def status_below(path: Path, roots: Iterable[Path]) -> os.stat_result:
    """What lies at `path`, without opening it (a pipe would wait); arguments and errors as for `holder_of`."""
    with holder_of(path, roots) as holder:
        return os.stat(path.name or ".", dir_fd=holder, follow_symlinks=False)
