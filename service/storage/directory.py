"""Object storage in a directory: what the embedded service uses, and any shared file system."""

# ruff: noqa: ARG002 (the interface has parameters for which a directory has no use)

import errno
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from peelbound.service.storage.base import OBJECT_SUFFIX, ObjectInfo, check_key, check_prefix
from peelbound.workers.errors import ObjectCorrupt, ObjectMissing, StorageDenied, StorageFull, StorageUnavailable

_MAGIC = b"PEELOBJ1"
_TRAILER_BYTES = 32 + len(_MAGIC)
_CHUNK_BYTES = 1 << 20
_STALE_SECONDS = 24 * 3600
_STAGING = ".staging"

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})
_ABSENT = (FileNotFoundError, NotADirectoryError)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn the `OSError` of work at `where` into the typed error that says who can mend it."""
    try:
        yield
    except OSError as error:
        detail = f"{where}: {error.strerror or error}."
        if error.errno in _FULL:
            raise StorageFull(
                detail, remedy="Free space there, raise the quota, or set PEELBOUND_STORE_URL."
            ) from error
        if error.errno in _DENIED:
            raise StorageDenied(
                detail, remedy="Let the service's user write there, or set PEELBOUND_STORE_URL to another directory."
            ) from error
        raise StorageUnavailable(detail) from error


@dataclass(frozen=True)
class DirectoryStore:
    """Objects as files under `root`.

    An object is *one* file: its bytes, then a trailer of SHA-256 (32 bytes) and a magic word. So a single rename or
    link publishes bytes and checksum together, and there is no moment at which one is there without the other. The
    file is staged in `root/.staging`, synced, put in place, and its directory synced. What a crash leaves lies in the
    staging directory, is never listed, and `clean` removes it after a day.
    """

    root: Path

    def put(self, key: str, data: bytes, *, media_type: str = "application/octet-stream") -> ObjectInfo:
        """See `ObjectStore.put`. The media type is not kept: directories do not serve."""
        return self._replace(key, io.BytesIO(data))

    def put_file(self, key: str, path: Path, *, media_type: str = "application/octet-stream") -> ObjectInfo:
        """See `ObjectStore.put_file`."""
        with path.open("rb") as source:
            return self._replace(key, source)

    def put_if_absent(self, key: str, data: bytes, *, media_type: str = "application/octet-stream") -> bool:
        """See `ObjectStore.put_if_absent`. Link, unlike rename, fails where a file already is."""
        target = self._file(key)
        with disk_errors(target):
            if target.exists():
                return False
            with self._staged(io.BytesIO(data)) as (staged, _, _):
                try:
                    _put_in_place(target, lambda: os.link(staged, target))
                except FileExistsError:
                    return False
        return True

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        with self._opened(key) as (file, info):
            data = file.read(info.bytes)
            _verify(info, hashlib.sha256(data).hexdigest(), len(data))
            return data

    def download(self, key: str, path: Path) -> None:
        """See `ObjectStore.download`."""
        with self._opened(key) as (file, info), disk_errors(path), staged_beside(path) as target:
            size, digest = _copy(file, target, limit=info.bytes)
            _verify(info, digest.hex(), size)

    def info(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.info`."""
        try:
            with self._opened(key) as (_, info):
                return info
        except ObjectMissing:
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        yield from (info for key in self._keys(prefix) if (info := self._listed(key)))

    def bytes_under(self, prefix: str) -> int:
        """See `ObjectStore.bytes_under`."""
        held = 0
        for key in self._keys(prefix):
            file = self._file(key)
            with disk_errors(file), suppress(*_ABSENT):  # deleted since
                held += max(0, file.stat().st_size - _TRAILER_BYTES)
        return held

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        target = self._file(key)
        with disk_errors(target), suppress(*_ABSENT):
            target.unlink()
            _sync_directory(target.parent)

    def link(self, key: str, *, seconds: int, filename: str, media_type: str) -> str | None:
        """None: nobody serves a directory; the API sends the bytes itself."""
        return None

    def clean(self) -> int:
        """See `ObjectStore.clean`: files in the staging directory; and directories that have been empty for a day."""
        removed = 0
        with disk_errors(self.root), suppress(*_ABSENT):
            oldest = time.time() - _STALE_SECONDS
            for left in (self.root / _STAGING).iterdir():
                with suppress(FileNotFoundError):
                    if left.stat().st_mtime < oldest:
                        left.unlink()
                        removed += 1
        self._remove_empty_directories()
        return removed

    def _remove_empty_directories(self) -> None:
        """Whoever deletes an object leaves its directory: to remove it there would cross those who write beside it."""
        oldest = time.time() - _STALE_SECONDS
        for directory, subdirectories, names in os.walk(self.root):
            # Only those that held nothing when they were looked at: what holds them becomes young by their removal.
            empty = not (subdirectories or names)
            subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
            here = Path(directory)
            if empty and here != self.root:
                with suppress(OSError):  # no longer empty, or gone
                    if here.stat().st_mtime < oldest:
                        here.rmdir()

    def check(self) -> None:
        """See `ObjectStore.check`. Writes and removes a small file."""
        with disk_errors(self.root), self._staged(io.BytesIO(b"check")):
            pass

    def _file(self, key: str) -> Path:
        return self.root / (check_key(key) + OBJECT_SUFFIX)

    def _keys(self, prefix: str) -> Iterator[str]:
        top = self.root / check_prefix(prefix).rpartition("/")[0]
        with disk_errors(top):
            for directory, subdirectories, names in os.walk(top, onerror=_raise_unless_absent):
                subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
                for name in names:
                    key = (Path(directory) / name).relative_to(self.root).as_posix().removesuffix(OBJECT_SUFFIX)
                    if name.endswith(OBJECT_SUFFIX) and key.startswith(prefix):
                        yield key

    def _replace(self, key: str, source: BinaryIO) -> ObjectInfo:
        target = self._file(key)
        with disk_errors(target), self._staged(source) as (staged, size, sha256):
            _put_in_place(target, lambda: staged.replace(target))
        return ObjectInfo(key, size, sha256)

    def _listed(self, key: str) -> ObjectInfo | None:
        try:
            return self.info(key)
        except ObjectCorrupt:
            file = self._file(key)
            with disk_errors(file):
                return ObjectInfo(key, file.stat().st_size, "")

    @contextmanager
    def _staged(self, source: BinaryIO) -> Iterator[tuple[Path, int, str]]:
        """A file on disk with the bytes of `source` and the trailer; their size and SHA-256. Gone afterwards."""
        _make_directory(self.root / _STAGING)
        handle, name = tempfile.mkstemp(dir=self.root / _STAGING)
        try:
            with os.fdopen(handle, "wb") as file:
                size, digest = _copy(source, file)
                file.write(digest + _MAGIC)
                file.flush()
                os.fsync(file.fileno())
            yield Path(name), size, digest.hex()
        finally:
            Path(name).unlink(missing_ok=True)

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[BinaryIO, ObjectInfo]]:
        target = self._file(key)
        with disk_errors(target):
            try:
                file = target.open("rb")
            except _ABSENT:
                raise ObjectMissing(f"There is no object {key}.") from None
            with file:
                size = os.fstat(file.fileno()).st_size - _TRAILER_BYTES
                trailer = os.pread(file.fileno(), _TRAILER_BYTES, size) if size >= 0 else b""
                if not trailer.endswith(_MAGIC):
                    raise ObjectCorrupt(f"The object {key} is cut off: {target} does not end with its checksum.")
                yield file, ObjectInfo(key, size, trailer[:32].hex())


@contextmanager
def staged_beside(path: Path) -> Iterator[io.BufferedRandom]:
    """A file to write that takes the name `path` at the end, whole and synced; on an error nothing is left."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
        _sync_directory(path.parent)
    finally:
        Path(name).unlink(missing_ok=True)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, _ABSENT):
        raise error


def _verify(info: ObjectInfo, sha256: str, size: int) -> None:
    if (sha256, size) != (info.sha256, info.bytes):
        raise ObjectCorrupt(
            f"The object {info.key} has {size} bytes, SHA-256 {sha256}; stored were {info.bytes}, {info.sha256}."
        )


def _copy(source: BinaryIO, target: BinaryIO, limit: int | None = None) -> tuple[int, bytes]:
    """Copy up to `limit` bytes by chunks; how many there were and their SHA-256 digest."""
    digest = hashlib.sha256()
    size = 0
    while chunk := source.read(_CHUNK_BYTES if limit is None else min(_CHUNK_BYTES, limit - size)):
        target.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    return size, digest.digest()


def _make_directory(directory: Path) -> None:
    """Make a directory and its parents, each entry synced: a file is only as durable as the names that lead to it."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    _sync_directory(directory.parent)


def _put_in_place(target: Path, put: Callable[[], object]) -> None:
    """Give a staged file its name; again where `clean` has just removed the directory that it was to lie in."""
    for last in (False, True):
        try:
            _make_directory(target.parent)
            put()
            break
        except FileNotFoundError:
            if last:
                raise
    _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
