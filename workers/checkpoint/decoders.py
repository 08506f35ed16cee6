"""How a tensor of the model is made from tensors of the files: copied, dequantised, or several fused into one.

A decoder is a small frozen dataclass: it travels to the workers with the raw bytes and decodes there, and its `repr` is
part of the digest, so a field that changes a value must show in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from peelbound.workers.quantisers.grid import HeldGrid

ITEM_DTYPES = {
    "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""The torch dtype of each stored dtype that a decoder may ask for."""


class Undecodable(ValueError):
    """The stored bytes stand for no weights; `Part` says which tensor it was.

    Attributes:
        slug: of the `CheckpointError` that it becomes.
    """

    def __init__(self, problem: str, *, slug: str) -> None:
        super().__init__(problem)
        self.slug = slug


@dataclass(frozen=True, eq=False)
class RawTensor:
    """A stored tensor in memory, for a decoder; `data` (uint8, row-major, little-endian) may be read-only.

    Attributes:
        dtype: by the format's name (`F16`, `I32`, of GGUF also `Q4_0`).
        shape: as stored.
    """

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def tensor(self) -> Tensor:
        """A copy in the stored dtype."""
        return torch.from_numpy(self.data.copy()).view(ITEM_DTYPES[self.dtype]).reshape(self.shape)

    def float32(self) -> Tensor:
        """A copy as fp32, exactly; of the stored dtypes F32, F16 and BF16."""
        return torch.from_numpy(as_float32(self.data, self.dtype)).reshape(self.shape)


class Decoder(Protocol):
    """Makes one tensor of the model from one or more stored ones. Frozen, picklable, with a telling `repr`."""

    def decode(self, raw: Sequence[RawTensor]) -> Tensor:
        """The tensor in fp32; the stored ones come in the order in which the decoder's maker named them.

        Raises:
            Undecodable: they stand for no weights.
        """
        ...

    def grid(self, raw: Sequence[RawTensor]) -> "HeldGrid | None":  # noqa: ARG002 - for those that have one
        """The grid that the values lie on, of the weight as [out, in]; None where they lie on none."""
        return None


class Fuse(Protocol):
    """Makes one tensor of several in fp32 (experts of a layer stacked). Frozen, picklable, with a telling `repr`."""

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """The fused tensor; the others come in the order in which the placement named them."""
        ...


@dataclass(frozen=True)
class Plain(Decoder):
    """A weight in full precision."""

    def decode(self, raw: Sequence[RawTensor]) -> Tensor:
        """The stored values, in fp32."""
        return raw[0].float32()


@dataclass(frozen=True)
class Fused(Decoder):
    """Several weights, each decoded on its own, made into one, which lies on no grid: it is no linear map's weight.

    Attributes:
        decoders: of each weight.
        counts: how many stored tensors each of them takes.
        fuse: what makes one of them.
    """

    decoders: tuple[Decoder, ...]
    counts: tuple[int, ...]
    fuse: Fuse

    def decode(self, raw: Sequence[RawTensor]) -> Tensor:
        """The fused tensor, in fp32."""
        spans = pairwise(accumulate(self.counts, initial=0))
        return self.fuse([d.decode(raw[a:b]) for d, (a, b) in zip(self.decoders, spans, strict=True)])


PLAIN = Plain()


def as_float32(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """A new fp32 array. Done in numpy, which reads the read-only buffers of Ray's store without a warning."""
    if dtype == "F32":
        return raw.view("<f4").astype(np.float32)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    wide = raw.view("<u2").astype(np.uint32)  # bfloat16 is the upper half of a float32
    wide <<= 16
    return wide.view(np.float32)
