"""A part of a checkpoint in memory: one block, or the rest (embedding, final norm, head)."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from peelbound.workers.errors import CheckpointError
from peelbound.workers.keys import canonical

WEIGHT_DTYPES = ("F32", "F16", "BF16")
"""What weights may be stored as; all convert to fp32 exactly."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a part: `length` bytes from `offset` of its data, row-major and little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, eq=False)
class Part:
    """Raw weights of one part, as stored.

    Pickle's protocol 5 takes `data` out of band, so that Ray shares one copy among the workers of a node.

    Attributes:
        index: 0 for the rest, 1..K for the blocks.
        data: uint8, the tensors' bytes one after the other.
        entries: in the order of their bytes: widest dtype first (every tensor is aligned), then by name. The order
            does not depend on how the checkpoint is sharded.
        sha256: over entries and bytes.
    """

    index: int
    data: NDArray[np.uint8]
    entries: tuple[TensorEntry, ...]
    sha256: str

    @classmethod
    def of(cls, index: int, data: NDArray[np.uint8], entries: Iterable[TensorEntry]) -> "Part":
        """A part with its digest."""
        entries = tuple(entries)
        digest = hashlib.sha256(canonical([[entry.name, entry.dtype, entry.shape] for entry in entries]))
        digest.update(data.data)
        return cls(index, data, entries, digest.hexdigest())

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"block {self.index}" if self.index else "the rest (embedding, norm, head)"

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by their name within the part, as fp32 copies: `data` itself is never written to.

        Raises:
            CheckpointError: ``checkpoint-not-finite``, naming part and tensor.
        """
        return {entry.name: torch.from_numpy(self._array(entry)) for entry in self.entries}

    def _array(self, entry: TensorEntry) -> NDArray[np.float32]:
        raw = self.data[entry.offset : entry.offset + entry.length]
        values = _as_float32(raw, entry.dtype).reshape(entry.shape)
        # Both extremes propagate NaN; unlike isfinite they need no array as long as the tensor.
        if not np.isfinite([values.min(initial=0), values.max(initial=0)]).all():
            bad = values.size - int(np.count_nonzero(np.isfinite(values)))
            raise CheckpointError(
                f"{self.title}: {entry.name} has {bad:,} NaN or Inf values (of {values.size:,}).",
                slug="checkpoint-not-finite",
                remedy="Training has diverged here; audit an earlier checkpoint of the run.",
                pointer="/checkpoint",
                part=self.index,
                tensor=entry.name,
            )
        return values


def _as_float32(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """A new fp32 array. Done in numpy, which reads the read-only buffers of Ray's store without a warning."""
    if dtype == "F32":
        return raw.view("<f4").astype(np.float32)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    wide = raw.view("<u2").astype(np.uint32)  # bfloat16 is the upper half of a float32
    wide <<= 16
    return wide.view(np.float32)
