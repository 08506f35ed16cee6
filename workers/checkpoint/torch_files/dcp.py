"""A directory of torch's distributed checkpoint (DCP): `.metadata` says which chunk of which tensor lies where.

Source: torch, distributed/checkpoint/metadata.py and filesystem.py. `.metadata` is a pickle of dataclasses, which torch
itself loads with `pickle`; here it is read as data (`pickled.py`). Each chunk is a zip file of one tensor as
`torch.save` writes it, somewhere in a `.distcp` file.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, NoReturn

from peelbound.workers.checkpoint.header import ITEM_BYTES, StoredTensor
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.checkpoint.strict_json import quoted
from peelbound.workers.checkpoint.torch_files.pickled import Made, Name, read_pickle
from peelbound.workers.checkpoint.torch_files.tensors import DTYPES, described, is_sizes, mapping
from peelbound.workers.checkpoint.torch_files.weights_file import check_name
from peelbound.workers.errors import CheckpointError

METADATA_FILE = ".metadata"
SUFFIX = ".distcp"
REMEDY = (
    "Save the checkpoint again, or, where you trust it, convert it: "
    "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIRECTORY pytorch_model.bin`."
)

_METADATA = "torch.distributed.checkpoint.metadata"
_STORAGE_INFO = Name("torch.distributed.checkpoint.filesystem", "_StorageInfo")
_SIZE = Name("torch", "Size")
_SHOWN = 5


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor: `length` bytes from `start` of `file`, a zip file of its own.

    Attributes:
        file: a `.distcp` file.
        start: in bytes.
        length: in bytes.
        offsets: of its first element within the tensor.
        sizes: its own shape.
    """

    file: str
    start: int
    length: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class ChunkedTensor(StoredTensor):
    """A tensor that chunks make up; `start` means nothing, `length` is that of the whole."""

    chunks: tuple[Chunk, ...] = ()


def read_metadata(reader: Reader, limits: Limits, model: Container[str]) -> list[StoredTensor]:
    """The model's tensors, of all that a training run saved; no `.distcp` file is read.

    A run saves its optimiser and counters as well, each in a dictionary of its own. The model's is the one that holds
    the most of its tensors by their names.

    Args:
        reader: of the checkpoint.
        limits: bounds.
        model: the model's own names of its tensors.

    Raises:
        CheckpointError: ``checkpoint-shard-missing``, ``checkpoint-truncated``, ``checkpoint-pickle``,
            ``checkpoint-torch-invalid``, ``checkpoint-dcp-invalid`` or ``checkpoint-dtype-unknown``.
    """
    raw = reader.read_whole(METADATA_FILE, limit=limits.metadata_bytes, slug="checkpoint-header-too-large")
    metadata = read_pickle(
        raw, file=METADATA_FILE, operations=limits.metadata_operations, known=_is_known, remedy=REMEDY
    )
    fields = _fields(metadata, "Metadata")
    described_tensors = mapping(fields.get("state_dict_metadata"))
    if described_tensors is None:
        _refuse("it lists no tensors")
    names = _names_of_model(described_tensors, mapping(fields.get("planner_data")) or {}, model)
    if len(names) > limits.tensors:
        _refuse(f"it lists {len(names):,} tensors; at most {limits.tensors:,} are read")
    places = _places(fields.get("storage_data"), set(names), limits)
    found = [_tensor(full, name, described_tensors[full], places, limits) for full, name in names.items()]
    _check_files(found, reader.files)
    return found


def _is_known(name: Name) -> bool:
    """Names of what the metadata are made of, and of paths, which say where they were saved."""
    return (
        name.module == _METADATA
        or name.module == "torch.distributed.checkpoint.filesystem"
        or (name.module == "torch" and (name.name == "Size" or name.name in DTYPES or name.name in _OTHER_DTYPES))
        or name == Name("torch.serialization", "_get_layout")
        or name == Name("collections", "OrderedDict")
        or (name.module in ("pathlib", "pathlib._local") and name.name.endswith("Path"))
    )


_OTHER_DTYPES = {"complex64", "complex128", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"}
"""Of tensors that are not the model's."""


def _names_of_model(tensors: Mapping[str, Any], paths: Mapping[str, Any], model: Container[str]) -> dict[str, str]:
    """Of the model's tensors: the name in the checkpoint → the name in the model's own dictionary."""
    groups: dict[tuple[Any, ...], dict[str, str]] = {}
    for full, entry in tensors.items():
        if _is(entry, "TensorStorageMetadata"):
            path = paths.get(full)
            if not isinstance(path, tuple) or not path or not all(isinstance(step, str | int) for step in path):
                path = (full,)
            groups.setdefault(path[:-1], {})[full] = str(path[-1])
    ranked = sorted(groups.values(), key=lambda group: -sum(name in model for name in group.values()))
    matches = [sum(name in model for name in group.values()) for group in ranked]
    if not ranked or (len(ranked) > 1 and matches[0] == matches[1]):
        listed = sorted(tensors)[:_SHOWN]
        _refuse(f"which of its dictionaries is the model's cannot be told: {quoted(listed)}")
    return ranked[0]


_Places = dict[str, Made]
"""A chunk, by `_chunk_key` → where it lies."""


def _chunk_key(name: str, offsets: tuple[int, ...]) -> str:
    """Text, whose hashes nobody can foresee: tuples of numbers could be made to collide."""
    return f"{offsets} {name}"


def _places(storage: Any, wanted: Container[str], limits: Limits) -> _Places:
    if not isinstance(storage, Made):
        _refuse("it does not say where the tensors lie")
    found: _Places = {}
    for key, value in storage.pairs:
        index = _fields(key, "MetadataIndex")
        name = index.get("fqn")
        if not isinstance(name, str) or name not in wanted:
            continue
        offset = index.get("offset")
        place = _chunk_key(name, _sizes(offset, f"the offset of {quoted(name)}", limits))
        if place in found:
            _refuse(f"a chunk of {quoted(name)} lies in two places")
        if not isinstance(value, Made) or value.by != _STORAGE_INFO:
            _refuse(f"a chunk of {quoted(name)} lies in {described(value)}")
        found[place] = value
    return found


def _tensor(full: str, name: str, entry: Any, places: _Places, limits: Limits) -> StoredTensor:
    check_name(METADATA_FILE, name, limits)
    fields = _fields(entry, "TensorStorageMetadata")
    shape = _sizes(fields.get("size"), f"the shape of {quoted(name)}", limits)
    dtype = _dtype(name, fields.get("properties"))
    boxes = fields.get("chunks")
    if not isinstance(boxes, list):
        _refuse(f"{quoted(name)} has no list of chunks")
    chunks = []
    for box in boxes:
        part = _fields(box, "ChunkStorageMetadata")
        offsets = _sizes(part.get("offsets"), f"the offset of a chunk of {quoted(name)}", limits)
        sizes = _sizes(part.get("sizes"), f"the shape of a chunk of {quoted(name)}", limits)
        if prod(sizes):  # a rank may own nothing of a tensor
            chunks.append(_chunk(name, offsets, sizes, places.get(_chunk_key(full, offsets))))
    _check_tiling(name, shape, chunks)
    length = prod(shape) * ITEM_BYTES[dtype]
    return ChunkedTensor(name, METADATA_FILE, dtype, shape, 0, length, tuple(chunks))


def _dtype(name: str, properties: Any) -> str:
    if not _is(properties, "TensorProperties"):
        _refuse(f"{quoted(name)} has no properties")
    dtype = properties.state[0] if isinstance(properties.state, tuple) and properties.state else None
    if not isinstance(dtype, Name) or dtype.module != "torch" or dtype.name not in DTYPES:
        raise CheckpointError(
            f"{METADATA_FILE}: {quoted(name)} has the unknown dtype {described(dtype)}.",
            slug="checkpoint-dtype-unknown",
            remedy="Save the weights as float32, float16 or bfloat16.",
            pointer="/checkpoint",
        )
    return DTYPES[dtype.name]


def _chunk(name: str, offsets: tuple[int, ...], sizes: tuple[int, ...], place: Made | None) -> Chunk:
    if place is None:
        raise CheckpointError(
            f"{METADATA_FILE} does not say where the chunk of {quoted(name)} at {quoted(list(offsets))} lies.",
            slug="checkpoint-shard-missing",
            remedy="Wait until every rank has saved its part, or save the checkpoint again.",
            pointer="/checkpoint",
        )
    info = mapping(place.state) or {}
    file, start, length = info.get("relative_path"), info.get("offset"), info.get("length")
    if info.get("transform_descriptors"):
        _refuse(f"{quoted(name)} is compressed or otherwise transformed")
    plain = isinstance(file, str) and file.endswith(SUFFIX) and file.isprintable() and "/" not in file
    if not plain or not isinstance(file, str):
        _refuse(f"{quoted(name)} is said to be in {described(file)}, which is not a plain name of a {SUFFIX} file")
    if type(start) is not int or type(length) is not int or start < 0 or length <= 0:
        _refuse(f"{quoted(name)} is said to lie at {described(start)}, {described(length)} bytes long")
    return Chunk(file, start, length, offsets, sizes)


def _check_tiling(name: str, shape: tuple[int, ...], chunks: list[Chunk]) -> None:
    """The chunks must cover the tensor exactly once, as a grid: what a mesh of devices makes of it."""
    if any(len(chunk.offsets) != len(shape) or len(chunk.sizes) != len(shape) for chunk in chunks):
        _refuse(f"a chunk of {quoted(name)} has other dimensions than it")
    if 0 in shape:
        return
    cuts = [sorted({0, *(chunk.offsets[axis] for chunk in chunks)}) for axis in range(len(shape))]
    ends = [dict(zip(cut, [*cut[1:], size], strict=True)) for cut, size in zip(cuts, shape, strict=True)]
    fits = all(
        offset + size == end[offset]
        for chunk in chunks
        for offset, size, end in zip(chunk.offsets, chunk.sizes, ends, strict=True)
    )
    ordered = sorted(chunk.offsets for chunk in chunks)
    distinct = all(one != other for one, other in pairwise(ordered))
    if not fits or not distinct or len(chunks) != prod(map(len, cuts)):
        _refuse(f"the {len(chunks):,} chunks of {quoted(name)} do not cover its shape {list(shape)} exactly once")


def _check_files(found: list[StoredTensor], files: Mapping[str, int]) -> None:
    chunks = [chunk for tensor in found if isinstance(tensor, ChunkedTensor) for chunk in tensor.chunks]
    needed = {chunk.file for chunk in chunks}
    missing = sorted(needed - files.keys())
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(needed)} files named in {METADATA_FILE} are missing: {quoted(missing)}.",
            slug="checkpoint-shard-missing",
            remedy="Copy the missing files, or wait until the checkpoint is written completely.",
            pointer="/checkpoint",
            files=missing[:100],
        )
    for chunk in chunks:
        if chunk.start + chunk.length > files[chunk.file]:
            raise CheckpointError(
                f"{chunk.file} is truncated: {METADATA_FILE} asks for {chunk.start + chunk.length:,} bytes, the file "
                f"has {files[chunk.file]:,}.",
                slug="checkpoint-truncated",
                remedy="Copy the file again, or wait until the checkpoint is written completely.",
                pointer="/checkpoint",
                file=chunk.file,
                expected_bytes=chunk.start + chunk.length,
                actual_bytes=files[chunk.file],
            )


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, Made) and value.by == Name(_METADATA, kind)


def _fields(value: Any, kind: str) -> dict[str, Any]:
    """Of a dataclass of the metadata."""
    fields = mapping(value.state) if isinstance(value, Made) and _is(value, kind) else None
    if fields is None:
        _refuse(f"it holds {described(value)} where {kind} is expected")
    return fields


def _sizes(value: Any, what: str, limits: Limits) -> tuple[int, ...]:
    sizes = value.args[0] if isinstance(value, Made) and value.by == _SIZE and len(value.args) == 1 else None
    if sizes is None or not is_sizes(sizes, limits):
        _refuse(f"{what} is {described(value)} and not a list of at most {limits.dimensions} sizes")
    return tuple(sizes)


def _refuse(problem: str) -> NoReturn:
    raise CheckpointError(
        f"{METADATA_FILE} cannot be read: {problem}.",
        slug="checkpoint-dcp-invalid",
        remedy=REMEDY,
        pointer="/checkpoint",
    )
