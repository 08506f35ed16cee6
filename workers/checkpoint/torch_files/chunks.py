"""Reading chunked tensors: each chunk is a zip file of one tensor, whose bytes go to their place in the whole."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from peelbound.workers.checkpoint.header import ITEM_BYTES
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import CHUNK_BYTES, Range, Reader
from peelbound.workers.checkpoint.strict_json import quoted
from peelbound.workers.checkpoint.torch_files.archive import PICKLE, REMEDY, Archive, Window, refuse
from peelbound.workers.checkpoint.torch_files.dcp import Chunk, ChunkedTensor
from peelbound.workers.checkpoint.torch_files.pickled import read_pickle
from peelbound.workers.checkpoint.torch_files.tensors import NotATensor, is_known, saved_tensor
from peelbound.workers.checkpoint.torch_files.weights_file import span

_PICKLE_BYTES, _PICKLE_OPERATIONS = 1 << 16, 1000
"""Of one tensor; torch writes some 400 bytes and 40 operations."""


def read_chunks(reader: Reader, wanted: Sequence[tuple[ChunkedTensor, NDArray[np.uint8]]], limits: Limits) -> None:
    """Fill each tensor's bytes (uint8, as long as the tensor) from its chunks.

    Small chunks are read as a whole, several at a time; of large ones, one at a time, first what says where their bytes
    are. So little more than the tensors themselves is held: `CHUNK_BYTES` times the concurrent reads, or one chunk.

    Raises:
        CheckpointError: ``checkpoint-torch-…``, naming file and tensor: a chunk is not what the metadata say of it.
    """
    chunks = [
        (tensor, chunk, data.reshape(*tensor.shape, ITEM_BYTES[tensor.dtype]))
        for tensor, data in wanted
        for chunk in tensor.chunks
    ]
    small = [item for item in chunks if item[1].length <= CHUNK_BYTES]
    reader.at_once(lambda item: _fill_from_memory(reader, *item, limits), small)
    for tensor, chunk, whole in chunks:
        if chunk.length > CHUNK_BYTES:
            _fill_by_ranges(reader, tensor, chunk, whole, limits)


def _fill_from_memory(
    reader: Reader, tensor: ChunkedTensor, chunk: Chunk, whole: NDArray[np.uint8], limits: Limits
) -> None:
    raw = reader.read(chunk.file, chunk.start, chunk.length)
    window = Window(_title(chunk), chunk.length, lambda start, length: raw[start : start + length])
    start, length = _locate(window, tensor, chunk, limits)
    region = _region(whole, chunk)
    region[...] = np.frombuffer(raw, np.uint8, length, start).reshape(region.shape)


def _fill_by_ranges(
    reader: Reader, tensor: ChunkedTensor, chunk: Chunk, whole: NDArray[np.uint8], limits: Limits
) -> None:
    window = Window(
        _title(chunk), chunk.length, lambda start, length: reader.read(chunk.file, chunk.start + start, length)
    )
    start, length = _locate(window, tensor, chunk, limits)
    region = _region(whole, chunk)
    # A chunk of whole rows is read to its place; one of columns has to be spread over them.
    data = region.reshape(-1) if region.flags.c_contiguous else np.empty(length, np.uint8)
    reader.read_into(data, [Range(chunk.file, chunk.start + start, length, 0)])
    if not region.flags.c_contiguous:
        region[...] = data.reshape(region.shape)


def _title(chunk: Chunk) -> str:
    return f"{chunk.file} at byte {chunk.start:,}"


def _region(whole: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
    """The chunk's place in the tensor [*shape, bytes of an element]."""
    return whole[tuple(slice(o, o + s) for o, s in zip(chunk.offsets, chunk.sizes, strict=True))]


def _locate(window: Window, tensor: ChunkedTensor, chunk: Chunk, limits: Limits) -> tuple[int, int]:
    """Where the chunk's elements lie within its zip file, and how many bytes they are."""
    archive = Archive.open(window, limits)
    archive.check_byte_order()
    raw = archive.read(PICKLE, _PICKLE_BYTES)
    try:
        saved = saved_tensor(
            read_pickle(raw, file=window.title, operations=_PICKLE_OPERATIONS, known=is_known, remedy=REMEDY), limits
        )
    except NotATensor as error:
        refuse(window.title, f"its chunk of {quoted(tensor.name)} cannot be read: {error}")
    if (saved.dtype, saved.shape) != (tensor.dtype, chunk.sizes):
        refuse(
            window.title,
            f"its chunk of {quoted(tensor.name)} is {saved.dtype} of shape {quoted(list(saved.shape))}; the metadata "
            f"call for {tensor.dtype} of shape {quoted(list(chunk.sizes))}",
        )
    within, length = span(archive, tensor.name, saved)
    return archive.start(f"data/{saved.key}") + within, length
