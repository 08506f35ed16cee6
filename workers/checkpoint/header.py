"""The header of one safetensors file.

The format: 8 bytes with the header's length N (unsigned, little-endian), N bytes of JSON in UTF-8 that begin with `{`,
then the tensors' bytes, which the header's offsets cover without gap or overlap. It is parsed here and not by the
safetensors library because that maps or reads whole files, and a checkpoint is read by ranges, perhaps from S3.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.checkpoint.strict_json import parse_object, quoted
from peelbound.workers.errors import CheckpointError

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of one element, by the format's name of the dtype. Its sub-byte types are left out: they need dequantising."""

_LENGTH_BYTES = 8
_MEMBERS = {"dtype", "shape", "data_offsets"}
_REMEDY = "Save the checkpoint again with save_pretrained(), or copy the file again."


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `length` bytes from offset `start` of `file`."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int


def read_header(reader: Reader, file: str, limits: Limits) -> list[StoredTensor]:
    """Read and check a file's header: the tensors in the order of their bytes.

    Raises:
        CheckpointError: ``checkpoint-truncated``, ``checkpoint-header-too-large``, ``checkpoint-header-invalid`` or
            ``checkpoint-dtype-unknown``, naming the file and the tensor.
    """
    size = reader.files[file]
    if size < _LENGTH_BYTES:
        raise truncated(file, _LENGTH_BYTES, size)
    length = int.from_bytes(reader.read(file, 0, _LENGTH_BYTES), "little")
    if length > limits.header_bytes:
        raise CheckpointError(
            f"{file} says that its header has {length:,} bytes; at most {limits.header_bytes:,} are read.",
            slug="checkpoint-header-too-large",
            remedy=f"Check that it is a safetensors file. {_REMEDY}",
            pointer="/checkpoint",
        )
    if _LENGTH_BYTES + length > size:
        raise truncated(file, _LENGTH_BYTES + length, size)
    return parse_header(reader.read(file, _LENGTH_BYTES, length), file=file, file_bytes=size, limits=limits)


def parse_header(raw: bytes, *, file: str, file_bytes: int, limits: Limits) -> list[StoredTensor]:
    """Check the JSON of a header against the file's size; see `read_header`."""
    if not raw.startswith(b"{"):
        raise _invalid(file, f"the header begins with {quoted(raw[:8])} and not with a brace")
    header = parse_object(raw, file=f"The header of {file}", slug="checkpoint-header-invalid", remedy=_REMEDY)
    _check_metadata(header.pop("__metadata__", {}), file)
    if len(header) > limits.tensors:
        raise _invalid(file, f"it lists {len(header):,} tensors; at most {limits.tensors:,} are read")
    data_start = _LENGTH_BYTES + len(raw)
    tensors = [_parse_entry(name, entry, file, data_start, limits) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.length))
    _check_coverage(tensors, file, data_start, file_bytes)
    return tensors


def _check_metadata(metadata: Any, file: str) -> None:
    # Nothing here uses it; what the reference implementation refuses is refused here too.
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _invalid(file, f"__metadata__ is {quoted(metadata)} and not an object of strings")


def _parse_entry(name: str, entry: Any, file: str, data_start: int, limits: Limits) -> StoredTensor:
    """One member of the header; `data_offsets` count from the end of the header."""
    if len(name) > limits.name_length:
        raise _invalid(file, f"the tensor name {quoted(name)} has more than {limits.name_length} characters")
    if not isinstance(entry, dict) or entry.keys() != _MEMBERS:
        raise _invalid(file, f"the entry of {quoted(name)} is {quoted(entry)}; it needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{file}: {quoted(name)} has the unknown dtype {quoted(dtype)}.",
            slug="checkpoint-dtype-unknown",
            remedy="Save the weights as float32, float16 or bfloat16.",
            pointer="/checkpoint",
        )
    if not _is_list_of_sizes(shape) or len(shape) > limits.dimensions:
        raise _invalid(
            file, f"the shape of {quoted(name)} is {quoted(shape)} and not a list of at most {limits.dimensions} sizes"
        )
    if not _is_list_of_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _invalid(file, f"the data_offsets of {quoted(name)} are {quoted(offsets)} and not [begin, end]")
    begin, end = offsets
    expected = prod(shape) * ITEM_BYTES[dtype]
    if end - begin != expected:
        raise _invalid(
            file,
            f"{quoted(name)} takes {end - begin:,} bytes, but {dtype} of shape {quoted(shape)} takes {expected:,}",
        )
    return StoredTensor(name, file, dtype, tuple(shape), data_start + begin, end - begin)


def _is_list_of_sizes(value: Any) -> bool:
    # 64 bits bound every product of a few of them; a bool is an int to isinstance.
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_coverage(tensors: list[StoredTensor], file: str, data_start: int, file_bytes: int) -> None:
    """The tensors, in the order of their bytes, must cover the file from `data_start` to its end exactly once."""
    covered, previous = data_start, "the header"
    for tensor in tensors:
        if tensor.start < covered:
            raise _invalid(file, f"the bytes of {quoted(tensor.name)} overlap those of {quoted(previous)}")
        if tensor.start > covered:
            hole = tensor.start - covered
            raise _invalid(file, f"{hole:,} bytes before {quoted(tensor.name)} belong to no tensor")
        covered, previous = tensor.start + tensor.length, tensor.name
    if covered > file_bytes:
        raise truncated(file, covered, file_bytes)
    if covered < file_bytes:
        raise _invalid(file, f"{file_bytes - covered:,} bytes at its end belong to no tensor")


def _invalid(file: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is not a valid safetensors file: {problem}.",
        slug="checkpoint-header-invalid",
        remedy=_REMEDY,
        pointer="/checkpoint",
    )


def truncated(file: str, expected: int, actual: int) -> CheckpointError:
    """Of a file of `actual` bytes whose header asks for `expected`."""
    return CheckpointError(
        f"{file} is truncated: its header asks for {expected:,} bytes, the file has {actual:,}.",
        slug="checkpoint-truncated",
        remedy="Copy the file again, or wait until the checkpoint is written completely.",
        pointer="/checkpoint",
        file=file,
        expected_bytes=expected,
        actual_bytes=actual,
    )
