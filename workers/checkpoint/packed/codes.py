"""What the integer layouts share: codes out of words, and weights made of codes and a grid."""

from collections.abc import Sequence
from math import ceil
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelbound.workers.checkpoint.decoders import Decoder, RawTensor, Undecodable
from peelbound.workers.quantisers.grid import HeldGrid

WORD_BITS = 32


class CodedDecoder(Decoder, Protocol):
    """A linear map's weight [out, in] as codes on a grid; its values are the grid's, so quantising keeps each bit."""

    def codes(self, raw: Sequence[RawTensor]) -> Tensor:
        """Whole fp32 numbers [out, in], as the grid counts them."""
        ...

    def grid(self, raw: Sequence[RawTensor]) -> HeldGrid:
        """The grid, with its scales as stored."""
        ...

    def decode(self, raw: Sequence[RawTensor]) -> Tensor:
        """The weight, [out, in]."""
        grid = self.grid(raw)
        codes = self.codes(raw)
        return grid.values(codes.reshape(codes.shape[0], grid.scale.shape[1], -1))


def words_for(count: int, bits: int) -> int:
    """How many 32-bit words hold `count` codes without a gap."""
    return ceil(count * bits / WORD_BITS)


def unpack_words(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """Codes of `bits` 1..8 out of 32-bit words along the last axis: [..., W] -> [..., 32 W / bits], lowest bits first.

    A code may reach into the next word (3 bits: 32 codes in 3 words).
    """
    raw = np.ascontiguousarray(words).astype("<i4", copy=False).view(np.uint8)
    if bits == 8:
        return raw
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        split = (raw[..., None] >> shifts) & np.uint8((1 << bits) - 1)
        return split.reshape(*raw.shape[:-1], -1)
    stream = np.unpackbits(raw, axis=-1, bitorder="little")
    whole = stream.shape[-1] // bits
    digits = stream[..., : whole * bits].reshape(*raw.shape[:-1], whole, bits)
    codes: NDArray[np.uint8] = (digits << np.arange(bits, dtype=np.uint8)).sum(-1, dtype=np.uint8)
    return codes


def int32(raw: RawTensor) -> NDArray[np.int32]:
    """The stored words in their shape."""
    return raw.data.view("<i4").reshape(raw.shape)


def by_column(values: Tensor, groups: Tensor) -> Tensor:
    """Scales [out, G, 1] for columns whose groups are not neighbours: [out, in, 1], each column a group of its own.

    Raises:
        Undecodable: a column names a group that is not there.
    """
    count = values.shape[1]
    if groups.numel() and (int(groups.min()) < 0 or int(groups.max()) >= count):
        raise Undecodable(
            f"its g_idx names groups from {int(groups.min())} to {int(groups.max())}, but it has {count}",
            slug="checkpoint-packed-index",
        )
    return values[:, groups.long()]


def in_order(groups: Tensor, group: int) -> bool:
    """Whether each column's group is that of its place: then the groups are neighbours."""
    return bool((groups == torch.arange(groups.numel()) // group).all())
