"""The interface of object storage, and what a key may look like."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

OBJECT_SUFFIX = ".object"
"""Ends the file names of a directory store, so that one key may also be the directory of another; no part of keys."""

_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+@-]{0,199}")
_PREFIX = re.compile(r"[A-Za-z0-9_.=+@/-]{0,1024}")
_KEY_LIMIT = 1000


@dataclass(frozen=True)
class ObjectInfo:
    """What is known of an object without reading it."""

    key: str
    bytes: int
    sha256: str
    """Lower-case hexadecimal, of the object's bytes; empty where `list` came upon an object without checksum."""


class ObjectStore(Protocol):
    """Whole objects under keys, each with its SHA-256.

    An object is visible only when whole and with its checksum. Stores are thread-safe and picklable (Ray actors get a
    copy); connections are made where they are used. Errors of every method:

    * `StorageUnavailable`: the storage did not answer, after retries; try again later;
    * `StorageFull`: no room is left; nothing half-written stays behind;
    * `StorageDenied`: credentials, permissions or the bucket's name are wrong; trying again changes nothing;
    * `ValueError`: the key is malformed, see `check_key`.
    """

    def put(self, key: str, data: bytes, *, media_type: str = "application/octet-stream") -> ObjectInfo:
        """Store `data`; atomic and durable on return. An object already under the key is replaced."""
        ...

    def put_file(self, key: str, path: Path, *, media_type: str = "application/octet-stream") -> ObjectInfo:
        """Store a file of any size, streamed."""
        ...

    def put_if_absent(self, key: str, data: bytes, *, media_type: str = "application/octet-stream") -> bool:
        """Store `data` unless the key exists. True for exactly one of several writers that try at once."""
        ...

    def get(self, key: str) -> bytes:
        """The object's bytes, their checksum verified.

        Raises:
            ObjectMissing: there is no such object.
            ObjectCorrupt: the bytes are not those that were stored.
        """
        ...

    def download(self, key: str, path: Path) -> None:
        """Write the object to `path`, streamed; `path` appears only when the checksum is verified.

        Raises:
            ObjectMissing, ObjectCorrupt: as `get`.
        """
        ...

    def info(self, key: str) -> ObjectInfo | None:
        """Size and checksum, or None when there is no such object. `ObjectCorrupt`: it carries no checksum."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose keys begin with the string `prefix`, in no particular order.

        One that carries no checksum is listed with an empty `sha256`, so that it can be found and deleted.
        """
        ...

    def bytes_under(self, prefix: str) -> int:
        """How much the objects whose keys begin with `prefix` hold together; checksums are not asked for."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error when there is none."""
        ...

    def link(self, key: str, *, seconds: int, filename: str, media_type: str) -> str | None:
        """A URL from which anyone can download the object for `seconds`, or None where the store has no such links."""
        ...

    def clean(self) -> int:
        """Remove what writers that broke off more than a day ago left behind, which nobody sees; how much there was."""
        ...

    def check(self) -> None:
        """Raise one of the errors above unless the store can be reached and written to now."""
        ...


def check_key(key: str) -> str:
    """The key itself when it is well-formed.

    A key is components of ``A-Z a-z 0-9 _ . = + @ -`` joined by ``/``; none is empty, longer than 200 characters, or
    begins with a dot (so ``..`` is out, and a store's own files can begin with one).

    Raises:
        ValueError: otherwise.
    """
    if len(key) > _KEY_LIMIT or not all(
        _COMPONENT.fullmatch(part) and not part.endswith(OBJECT_SUFFIX) for part in key.split("/")
    ):
        raise ValueError(f"not a key of an object: {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself when some key could begin with it; ValueError otherwise."""
    if not _PREFIX.fullmatch(prefix) or prefix.startswith("/") or "/." in f"/{prefix}" or "//" in prefix:
        raise ValueError(f"not a prefix of keys: {prefix!r}")
    return prefix
