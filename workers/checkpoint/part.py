"""A part of a checkpoint in memory: one block, or the rest (embedding, final norm, head)."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from peelbound.workers.checkpoint.decoders import PLAIN, Decoder, RawTensor, Undecodable
from peelbound.workers.errors import CheckpointError
from peelbound.workers.keys import canonical

if TYPE_CHECKING:
    from peelbound.workers.quantisers.grid import HeldGrid

WEIGHT_DTYPES = ("F32", "F16", "BF16")
"""What plain weights and scales may be stored as; all convert to fp32 exactly."""


@dataclass(frozen=True)
class TensorEntry:
    """A stored tensor of a part: `length` bytes from `offset` of its data, row-major and little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class LogicalTensor:
    """A tensor of the model: what `decoder` makes of some stored tensors.

    Attributes:
        name: within the block, or the model's full parameter name outside the blocks.
        decoder: how it is made.
        sources: places among the part's entries, in the decoder's order.
    """

    name: str
    decoder: Decoder
    sources: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """Raw weights of one part, as stored.

    Pickle's protocol 5 takes `data` out of band, so that Ray shares one copy among the workers of a node; decoding
    happens on the worker.

    Attributes:
        index: 0 for the rest, 1..K for the blocks.
        data: uint8, the stored tensors' bytes one after the other.
        entries: in the order of their bytes: widest dtype first (every tensor is aligned), then by name. The order
            does not depend on how the checkpoint is sharded.
        logical: the model's tensors, and how each is made.
        sha256: over entries and bytes, and over how the tensors are made where it is more than a copy.
    """

    index: int
    data: NDArray[np.uint8]
    entries: tuple[TensorEntry, ...]
    logical: tuple[LogicalTensor, ...]
    sha256: str

    @classmethod
    def of(
        cls,
        index: int,
        data: NDArray[np.uint8],
        entries: Iterable[TensorEntry],
        logical: Iterable[LogicalTensor] | None = None,
    ) -> "Part":
        """A part with its digest. Without `logical`, every entry is a weight in full precision under its own name."""
        entries = tuple(entries)
        logical = _plain(entries) if logical is None else tuple(logical)
        digest = hashlib.sha256(canonical([[entry.name, entry.dtype, entry.shape] for entry in entries]))
        made = [[t.name, repr(t.decoder), t.sources] for t in logical if t.decoder != PLAIN]
        if made:
            digest.update(canonical(made))
        digest.update(data.data)
        return cls(index, data, entries, logical, digest.hexdigest())

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"block {self.index}" if self.index else "the rest (embedding, norm, head)"

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by their name within the part, as fp32 copies: `data` itself is never written to.

        Packed weights are dequantised.

        Raises:
            CheckpointError: ``checkpoint-not-finite``, naming part and tensor (of packed weights: the scale); or
                ``checkpoint-packed-…``: the bytes stand for no weights.
        """
        return {tensor.name: self._made(tensor) for tensor in self.logical}

    def grids(self) -> dict[str, "HeldGrid"]:
        """The grid of each packed weight by its name within the part, with the scales as stored.

        Absent are weights in full precision, fused ones, and those on no uniform grid (fp8).
        """
        grids = {tensor.name: tensor.decoder.grid(self._raw(tensor)) for tensor in self.logical}
        return {name: grid for name, grid in grids.items() if grid is not None}

    def _made(self, tensor: LogicalTensor) -> torch.Tensor:
        raw = self._raw(tensor)
        if tensor.decoder != PLAIN:
            for source, stored in zip(tensor.sources, raw, strict=True):
                if stored.dtype in WEIGHT_DTYPES:
                    self._check_finite(self.entries[source].name, stored.float32())
        try:
            values = tensor.decoder.decode(raw)
        except Undecodable as error:
            raise CheckpointError(
                f"{self.title}: {tensor.name} cannot be unpacked: {error}.",
                slug=error.slug,
                remedy="Save the quantised model again, or copy its files again.",
                pointer="/checkpoint",
                part=self.index,
                tensor=tensor.name,
            ) from None
        self._check_finite(tensor.name, values)
        return values

    def _raw(self, tensor: LogicalTensor) -> list[RawTensor]:
        chosen = [self.entries[source] for source in tensor.sources]
        return [RawTensor(e.dtype, e.shape, self.data[e.offset : e.offset + e.length]) for e in chosen]

    def _check_finite(self, name: str, tensor: torch.Tensor) -> None:
        values = tensor.numpy()
        # Both extremes propagate NaN; unlike isfinite they need no array as long as the tensor.
        if not np.isfinite([values.min(initial=0), values.max(initial=0)]).all():
            bad = values.size - int(np.count_nonzero(np.isfinite(values)))
            raise CheckpointError(
                f"{self.title}: {name} has {bad:,} NaN or Inf values (of {values.size:,}).",
                slug="checkpoint-not-finite",
                remedy="Training, or the packing of the weights, went wrong here; audit an earlier checkpoint.",
                pointer="/checkpoint",
                part=self.index,
                tensor=name,
            )


def _plain(entries: tuple[TensorEntry, ...]) -> tuple[LogicalTensor, ...]:
    return tuple(LogicalTensor(entry.name, PLAIN, (place,)) for place, entry in enumerate(entries))
