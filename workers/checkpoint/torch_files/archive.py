"""The zip file that `torch.save` writes, read by ranges: a pickle, and the bytes of each storage, uncompressed.

Source: torch, caffe2/serialize/inline_container.cc: `<root>/data.pkl`, `<root>/byteorder`, `<root>/data/<key>`, none
of them compressed. So a tensor's bytes are a range of the file, and nothing is ever decompressed.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from itertools import pairwise
from typing import NoReturn
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.strict_json import quoted
from peelbound.workers.errors import CheckpointError

PICKLE = "data.pkl"
REMEDY = (
    "Where you trust the files, save them anew: AutoModelForCausalLM.from_pretrained(path).save_pretrained(out) writes "
    "safetensors; audit `out`."
)

_LOCAL_HEADER = struct.Struct("<4s2xHH16xHH")
"""Signature, flags, method, length of the name, length of the extra field (PKWARE APPNOTE 6.3.10, section 4.3.7)."""
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 1
_DIRECTORY = 0x10
"""MS-DOS's attribute of a directory. By it torch's reader (miniz, `mz_zip_reader_is_file_a_directory`) takes an entry
for one, and leaves the memory of its tensors as it was."""
_BYTE_ORDER_BYTES = 16


@dataclass(frozen=True)
class Window:
    """Bytes that hold one zip file: a file, or a part of one.

    Attributes:
        title: for messages.
        size: in bytes.
        read: bytes of it, by start and length within it.
    """

    title: str
    size: int
    read: Callable[[int, int], bytes]


class Archive:
    """The directory of one such file, checked. Make one with `open`."""

    def __init__(self, window: Window, root: str, entries: dict[str, ZipInfo], end: int) -> None:
        self.window = window
        self._root, self._entries = root, entries
        self._offsets = [*sorted(entry.header_offset for entry in entries.values()), end]

    @classmethod
    def open(cls, window: Window, limits: Limits) -> "Archive":
        """Read the directory.

        Raises:
            CheckpointError: ``checkpoint-torch-legacy``: it is not a zip file; ``checkpoint-truncated``,
                ``checkpoint-header-too-large`` or ``checkpoint-torch-invalid``.
        """
        begin = window.read(0, min(4, window.size))
        if begin != _LOCAL_SIGNATURE:
            raise CheckpointError(
                f"{window.title} is not a zip file, as torch writes since 1.6: it begins with {quoted(begin)}.",
                slug="checkpoint-torch-legacy",
                remedy=REMEDY,
                pointer="/checkpoint",
            )
        try:
            with ZipFile(_Bounded(window, limits.header_bytes)) as directory:
                found, end = directory.infolist(), directory.start_dir
        except BadZipFile as error:
            raise CheckpointError(
                f"{window.title} has no valid directory at its end ({error}): it is truncated, or no zip file.",
                slug="checkpoint-truncated",
                remedy="Copy the file again, or wait until the checkpoint is written completely.",
                pointer="/checkpoint",
                file=window.title,
                actual_bytes=window.size,
            ) from None
        except (ValueError, NotImplementedError, struct.error, OverflowError) as error:
            refuse(window.title, f"its zip directory is broken ({quoted(str(error))})")
        if len(found) > limits.tensors + 16:
            refuse(window.title, f"it holds {len(found):,} entries; at most {limits.tensors:,} tensors are read")
        return cls(window, *_checked(window, found, end), end)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def size(self, name: str) -> int:
        """Bytes of an entry, by its name below the root."""
        size: int = self._entry(name).file_size
        return size

    def start(self, name: str) -> int:
        """Where the bytes of an entry begin within the window: known only from its own header.

        Raises:
            CheckpointError: ``checkpoint-torch-invalid``: the entry's header is not what the directory says.
        """
        entry = self._entry(name)
        raw = self.window.read(entry.header_offset, _LOCAL_HEADER.size)
        signature, flags, method, name_length, extra_length = _LOCAL_HEADER.unpack(raw)
        if signature != _LOCAL_SIGNATURE or method != ZIP_STORED or flags & _ENCRYPTED:
            refuse(self.window.title, f"the entry {quoted(name)} does not begin where its directory says")
        start: int = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        following: int = self._offsets[bisect_right(self._offsets, entry.header_offset)]
        if start + entry.file_size > following:
            refuse(self.window.title, f"the bytes of {quoted(name)} overlap those of another entry")
        return start

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a small entry.

        Raises:
            CheckpointError: ``checkpoint-header-too-large``, or as `start`.
        """
        size = self.size(name)
        if size > limit:
            raise CheckpointError(
                f"{quoted(name)} in {self.window.title} has {size:,} bytes; at most {limit:,} are read.",
                slug="checkpoint-header-too-large",
                remedy="Save the state dict of the model alone, with nothing else in it.",
                pointer="/checkpoint",
            )
        return self.window.read(self.start(name), size)

    def check_byte_order(self) -> None:
        """Refuse files of big-endian machines; those of before torch 2.1 do not say."""
        if "byteorder" in self and (order := self.read("byteorder", _BYTE_ORDER_BYTES)) != b"little":
            refuse(self.window.title, f"its byte order is {quoted(order)} and not little")

    def _entry(self, name: str) -> ZipInfo:
        if name not in self._entries:
            refuse(self.window.title, f"it has no entry {quoted(f'{self._root}/{name}')}")
        return self._entries[name]


def refuse(title: str, problem: str) -> NoReturn:
    """Raise ``checkpoint-torch-invalid``."""
    raise CheckpointError(
        f"{title} is not a valid torch file: {problem}.",
        slug="checkpoint-torch-invalid",
        remedy=REMEDY,
        pointer="/checkpoint",
    )


def _checked(window: Window, found: Iterable[ZipInfo], end: int) -> tuple[str, dict[str, ZipInfo]]:
    """Root and entries by their names below it."""
    pickles = [
        entry.filename for entry in found if entry.filename.count("/") == 1 and entry.filename.endswith(f"/{PICKLE}")
    ]
    if len(pickles) != 1:
        refuse(window.title, f"it has {len(pickles)} entries {PICKLE} and not one; TorchScript and others are not read")
    root = pickles[0].removesuffix(f"/{PICKLE}")
    entries: dict[str, ZipInfo] = {}
    for entry in found:
        name = entry.filename.removeprefix(f"{root}/")
        if name in entries:
            refuse(window.title, f"the entry {quoted(entry.filename)} occurs twice")
        if entry.compress_type != ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & _ENCRYPTED:
            refuse(
                window.title, f"the entry {quoted(entry.filename)} is compressed or encrypted, which torch never does"
            )
        if entry.external_attr & _DIRECTORY:
            refuse(window.title, f"the entry {quoted(entry.filename)} is marked as a directory, and torch reads none")
        if not 0 <= entry.header_offset <= end - _LOCAL_HEADER.size or entry.header_offset + entry.file_size > end:
            refuse(window.title, f"the entry {quoted(entry.filename)} lies beyond the file's data")
        entries[name] = entry
    offsets = sorted((entry.header_offset, entry.file_size) for entry in entries.values())
    for (start, size), (following, _) in pairwise(offsets):
        if start + _LOCAL_HEADER.size + size > following:
            refuse(window.title, f"two of its entries overlap at byte {following:,}")
    return root, entries


class _Bounded(RawIOBase):
    """A window as the file that `zipfile` wants; a directory that is too large ends the reading."""

    def __init__(self, window: Window, limit: int) -> None:
        self._window, self._left, self._at = window, limit, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        at = offset + {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self._window.size}[whence]
        if at < 0:
            raise OSError("before the beginning")
        self._at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        rest = max(self._window.size - self._at, 0)
        length = rest if size is None or size < 0 else min(size, rest)
        if length > self._left:
            raise CheckpointError(
                f"The directory of {self._window.title} asks for {length:,} bytes; at most {self._left:,} are read.",
                slug="checkpoint-header-too-large",
                remedy="Check that it is a file that torch.save() wrote.",
                pointer="/checkpoint",
            )
        self._left -= length
        data = self._window.read(self._at, length) if length else b""
        self._at += length
        return data
