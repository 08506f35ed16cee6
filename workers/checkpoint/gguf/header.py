"""The header of a GGUF file: metadata, and where each tensor lies.

Source: ggml, docs/gguf.md (versions 2 and 3, little-endian); sizes of types from the gguf package. The package's own
reader maps the whole file and keeps several arrays for each token of the tokenizer; here a file is read by ranges,
perhaps from S3, and what it says of counts and lengths is bounded before it is believed.
"""

import struct
from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES

from peelbound.workers.checkpoint.header import StoredTensor, truncated
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.checkpoint.strict_json import quoted
from peelbound.workers.errors import CheckpointError, UnsupportedModel

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"

_CHUNK_BYTES = 256 << 10
"""How much of the header is fetched at once; at most so much of the weights is read along with it."""
_DEFAULT_ALIGNMENT = 32
_MOST_ALIGNMENT = 1 << 16
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Metadata types of fixed size, as `struct` calls them."""
_KEPT_ITEMS = 4096
"""Longer arrays are kept only where they are asked for: those of the tokenizer."""
_REMEDY = "Copy the file again, or convert the model again."


@dataclass(frozen=True)
class Skipped:
    """Stands for a long array that was not kept."""

    count: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says before its weights.

    Attributes:
        file: its name.
        metadata: by key; numbers, strings, lists of them, or `Skipped`.
        tensors: in the order of their bytes; their dtype is the format's type (`F16`, `Q4_K`), their shape [out, in].
    """

    file: str
    metadata: dict[str, Any]
    tensors: tuple[StoredTensor, ...]

    @property
    def architecture(self) -> str:
        """The format's name of the family; empty where the file names none."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""


def read_header(reader: Reader, file: str, limits: Limits, keep: Container[str] = ()) -> GgufHeader:
    """Read and check the header.

    Args:
        reader: of the checkpoint.
        file: the GGUF file.
        limits: bounds.
        keep: keys of long arrays that are wanted.

    Raises:
        CheckpointError: ``checkpoint-truncated``, ``checkpoint-header-too-large``, ``checkpoint-header-invalid`` or
            ``checkpoint-gguf-type``.
        UnsupportedModel: ``model-gguf-version``.
    """
    cursor = _Cursor(reader, file, limits.gguf_header_bytes)
    if cursor.take(4) != MAGIC:
        raise _invalid(file, "it does not begin with GGUF")
    (version,) = cursor.unpack("I")
    if version not in VERSIONS:
        raise UnsupportedModel(
            f"{file} is GGUF version {version}; versions {VERSIONS[0]} and {VERSIONS[1]}, little-endian, are read.",
            slug="model-gguf-version",
            remedy="Convert the model again with a current llama.cpp.",
            pointer="/checkpoint",
        )
    tensors, keys = cursor.unpack("QQ")
    if tensors > limits.tensors or keys > limits.gguf_keys:
        raise _invalid(
            file,
            f"it says that it holds {tensors:,} tensors and {keys:,} keys; at most {limits.tensors:,} and "
            f"{limits.gguf_keys:,} are read",
        )
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.string(limits.name_length)
        if key in metadata:
            raise _invalid(file, f"the key {quoted(key)} occurs twice")
        (kind,) = cursor.unpack("I")
        metadata[key] = _value(cursor, kind, keep=key in keep)
    found = [_tensor(cursor, limits) for _ in range(tensors)]
    return GgufHeader(file, metadata, _placed(reader, file, cursor.at, metadata, found))


@cache
def is_readable(kind: str) -> bool:
    """Whether the gguf package dequantises this type."""
    number = gguf.GGMLQuantizationType[kind]
    try:
        gguf.dequantize(np.zeros((1, GGML_QUANT_SIZES[number][1]), np.uint8), number)
    except NotImplementedError:
        return False
    return True


class _Cursor:
    """Reads on through a file, in pieces, up to a bound."""

    def __init__(self, reader: Reader, file: str, limit: int) -> None:
        self._reader, self.file, self._limit = reader, file, limit
        self._size = reader.files[file]
        self._raw = bytearray()
        self.at = 0

    def take(self, length: int) -> bytes:
        """The next bytes."""
        start, end = self.at, self.at + length
        if end > min(self._limit, self._size):
            raise self._beyond(end)
        while len(self._raw) < end:
            have = len(self._raw)
            more = min(max(_CHUNK_BYTES, end - have), self._size - have)
            self._raw += self._reader.read(self.file, have, more)
        self.at = end
        return bytes(self._raw[start:end])

    def unpack(self, form: str) -> tuple[Any, ...]:
        """The next numbers."""
        form = f"<{form}"
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def string(self, most: int | None = None) -> str:
        """The next string: its length, its bytes."""
        (length,) = self.unpack("Q")
        if most is not None and length > most:
            raise _invalid(self.file, f"a name has {length:,} bytes; at most {most} are read")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise _invalid(self.file, "a string is not UTF-8") from None

    def skip_strings(self, count: int) -> None:
        """Pass over strings, of which nothing is kept."""
        self.room(8 * count)
        for _ in range(count):
            (length,) = self.unpack("Q")
            self.take(length)

    def room(self, length: int) -> None:
        """Refuse now what cannot fit any more."""
        end = self.at + length
        if end > min(self._limit, self._size):
            raise self._beyond(end)

    def _beyond(self, end: int) -> CheckpointError:
        if self._size < end and self._size <= self._limit:
            return truncated(self.file, end, self._size)
        return CheckpointError(
            f"The header of {self.file} asks for {end:,} bytes; at most {self._limit:,} are read.",
            slug="checkpoint-header-too-large",
            remedy=_REMEDY,
            pointer="/checkpoint",
        )


def _value(cursor: _Cursor, kind: int, *, keep: bool) -> Any:
    if kind in _SCALARS:
        return cursor.unpack(_SCALARS[kind])[0]
    if kind == _STRING:
        return cursor.string()
    if kind != _ARRAY:
        raise _invalid(cursor.file, f"a value has the unknown type {kind}")
    item, count = cursor.unpack("IQ")
    keep = keep or count <= _KEPT_ITEMS
    if item in _SCALARS:
        width = struct.calcsize(f"<{_SCALARS[item]}")
        cursor.room(count * width)
        raw = cursor.take(count * width)
        return list(struct.unpack(f"<{count}{_SCALARS[item]}", raw)) if keep else Skipped(count)
    if item != _STRING:
        raise _invalid(cursor.file, f"an array has items of type {item}")
    if not keep:
        cursor.skip_strings(count)
        return Skipped(count)
    cursor.room(8 * count)
    return [cursor.string() for _ in range(count)]


_Described = tuple[str, tuple[int, ...], str, int]
"""Name, shape as [out, in], type, and offset from where the tensors begin."""


def _tensor(cursor: _Cursor, limits: Limits) -> _Described:
    name = cursor.string(limits.name_length)
    (rank,) = cursor.unpack("I")
    if rank > limits.dimensions:
        raise _invalid(cursor.file, f"{quoted(name)} has {rank:,} dimensions; at most {limits.dimensions} are read")
    shape = cursor.unpack(f"{rank}Q")[::-1]
    number, offset = cursor.unpack("IQ")
    try:
        kind = gguf.GGMLQuantizationType(number).name
    except ValueError:
        kind = f"number {number}"
    if kind.startswith("number") or not is_readable(kind):
        raise CheckpointError(
            f"{cursor.file}: {quoted(name)} is stored in the type {kind}, which is not read.",
            slug="checkpoint-gguf-type",
            remedy="Convert the model to a type that gguf-py dequantises: F16, Q4_0 to Q8_0, K- and IQ-types.",
            pointer="/checkpoint",
        )
    return name, shape, kind, offset


def _placed(
    reader: Reader,
    file: str,
    header_end: int,
    metadata: dict[str, Any],
    found: list[tuple[str, tuple[int, ...], str, int]],
) -> tuple[StoredTensor, ...]:
    alignment = metadata.get(ALIGNMENT_KEY, _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
        raise _invalid(file, f"{ALIGNMENT_KEY} is {quoted(alignment)} and not a power of two")
    begin = -(-header_end // alignment) * alignment
    placed: dict[str, StoredTensor] = {}
    for name, shape, kind, offset in found:
        if name in placed:
            raise _invalid(file, f"the tensor {quoted(name)} occurs twice")
        items, size = GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        if offset % alignment or prod(shape) >= 1 << 63:
            raise _invalid(file, f"{quoted(name)} has the shape {quoted(list(shape))} and lies at {offset:,}")
        if (shape[-1] if shape else 1) % items:
            raise CheckpointError(
                f"{file}: rows of {quoted(name)} have {shape[-1]:,} values; {kind} packs {items} at a time.",
                slug="checkpoint-group-size",
                remedy=_REMEDY,
                pointer="/checkpoint",
            )
        placed[name] = StoredTensor(name, file, kind, shape, begin + offset, prod(shape) // items * size)
    tensors = sorted(placed.values(), key=lambda tensor: (tensor.start, tensor.length))
    covered, before = begin, "the header"
    for tensor in tensors:
        if tensor.start < covered:
            raise _invalid(file, f"the bytes of {quoted(tensor.name)} overlap those of {quoted(before)}")
        covered, before = tensor.start + tensor.length, tensor.name
    if covered > reader.files[file]:
        raise truncated(file, covered, reader.files[file])
    return tuple(tensors)


def _invalid(file: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is not a valid GGUF file: {problem}.",
        slug="checkpoint-header-invalid",
        remedy=_REMEDY,
        pointer="/checkpoint",
    )
