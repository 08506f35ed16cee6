"""Files of a directory, read by ranges without keeping anything open."""

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from peelbound.service.sources.below import opened_below, status_below
from peelbound.service.sources.listing import SETTLED_SECONDS, Listing, SeenFile
from peelbound.service.uris import LocalUri
from peelbound.workers.errors import CheckpointError, StorageUnavailable, UriRefused

EVERY_SUFFIX = ("",)
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(frozen=True)
class LocalSource(Listing):
    """See `ByteSource`. Names are followed through their symlinks once, and each target must be allowed.

    Attributes:
        roots: resolved directories below which every file lies.
    """

    roots: tuple[Path, ...]

    @classmethod
    def of_directory(cls, uri: LocalUri, wanted: tuple[str, ...] = EVERY_SUFFIX) -> Self:
        """The regular files directly in the directory; none when there is no such directory.

        Args:
            uri: the directory.
            wanted: how names end, in lower case, that may be read. Others that lead outside are left out.

        Raises:
            UriRefused: a name that may be read leads outside the allow-list.
        """
        with _errors(uri.uri, uri.pointer):
            return cls._look(uri, _names(uri), wanted)

    @classmethod
    def of_file(cls, uri: LocalUri) -> Self:
        """The one file that the URI names; none when it is no regular file."""
        with _errors(uri.uri, uri.pointer):
            return cls._look(LocalUri(uri.path.parent, uri.roots, uri.pointer), [uri.path.name], EVERY_SUFFIX)

    @classmethod
    def _look(cls, uri: LocalUri, names: Iterable[str], wanted: tuple[str, ...]) -> Self:
        seen: dict[str, SeenFile] = {}
        youngest = 0
        for name in names:
            try:
                target = uri.follow(name)  # before anything is asked of it: nobody learns what exists elsewhere
            except UriRefused:
                if name.lower().endswith(wanted):
                    raise
                continue
            try:
                status = status_below(target, uri.roots)
            except OSError as error:
                if error.errno in _VANISHED:  # a dangling link
                    continue
                raise
            if not stat.S_ISREG(status.st_mode):
                continue
            seen[name] = SeenFile(str(target), status.st_size, _version(status))
            youngest = max(youngest, status.st_mtime_ns)
        settled = youngest < time.time_ns() - SETTLED_SECONDS * 1e9
        return cls(uri.uri, uri.pointer, seen, settled, uri.roots)

    def read(self, name: str, start: int, length: int) -> bytes:
        """See `ByteSource.read`. The version is compared before and after, on the handle that is read."""
        file = self._find_range(name, start, length)
        with _errors(file.place, self.pointer):
            try:
                with opened_below(Path(file.place), self.roots, os.O_NONBLOCK) as handle:  # a pipe would wait
                    before = _version(os.fstat(handle))
                    data = _read(handle, start, length) if before == file.version else b""
                    after = _version(os.fstat(handle))
            except OSError as error:
                if error.errno in _VANISHED:
                    raise self._changed(name) from None
                raise
        if not before == after == file.version or len(data) != length:
            raise self._changed(name)
        return data


def _names(uri: LocalUri) -> list[str]:
    try:
        with opened_below(uri.path, uri.roots, os.O_DIRECTORY) as directory:
            return sorted(os.listdir(directory))  # noqa: PTH208 (a handle is no path)
    except OSError as error:
        if error.errno in _VANISHED:
            return []
        raise


def _version(status: os.stat_result) -> str:
    kind = stat.S_IFMT(status.st_mode)
    return f"{kind:o}-{status.st_size}-{status.st_mtime_ns}-{status.st_ino}-{status.st_dev}"


def _read(handle: int, start: int, length: int) -> bytes:
    """Up to `length` bytes. One call gives at most 2 GiB on Linux, so large reads take several."""
    data = os.pread(handle, length, start)
    if len(data) == length or not data:
        return data
    pieces = [data]
    while data and (read := sum(map(len, pieces))) < length:
        data = os.pread(handle, length - read, start + read)
        pieces.append(data)
    return b"".join(pieces)


@contextmanager
def _errors(where: str, pointer: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise CheckpointError(
            f"{where} may not be read: {error.strerror}.",
            remedy="Give the service's user read permission on the directory and its files.",
            pointer=pointer,
            slug="checkpoint-unreadable",
        ) from error
    except OSError as error:
        raise StorageUnavailable(f"{where}: {error.strerror or error}.", pointer=pointer) from error
