"""Packed BitNet: four ternaries a byte, one scale per linear map.

Source: transformers, integrations/bitnet.py (`pack_weights`, `unpack_weights`, `BitLinear`, `AutoBitLinear`); the
method is BitNet b1.58 (Ma et al. 2024, arXiv 2402.17764). Byte [r, c] holds the rows r, r + R, r + 2R, r + 3R of
column c, two bits each, lowest first, as t + 1; R is a quarter of the output channels, rounded up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from peelbound.workers.checkpoint.decoders import RawTensor, Undecodable
from peelbound.workers.checkpoint.layout import Weight
from peelbound.workers.checkpoint.packed.codes import CodedDecoder
from peelbound.workers.checkpoint.packed.stored import FLOATS, Stored, expect, matrix
from peelbound.workers.quantisers.grid import HeldGrid

PER_BYTE = 4


@dataclass(frozen=True)
class Ternary(CodedDecoder):
    """Of `weight` and `weight_scale`.

    Attributes:
        divides: the scale divides (`BitLinear`: it is 1 / absmean) and does not multiply (`AutoBitLinear`).
        packed: four a byte, else a float −1, 0 or 1 each.
    """

    divides: bool
    packed: bool

    def codes(self, raw: Sequence[RawTensor]) -> Tensor:
        """−1, 0 or 1."""
        if not self.packed:
            return raw[0].float32()
        rows, columns = raw[0].shape
        shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None, None]
        codes = ((raw[0].data.reshape(rows, columns) >> shifts) & np.uint8(3)).reshape(PER_BYTE * rows, columns)
        if (codes == 3).any():
            raise Undecodable(
                f"{int((codes == 3).sum()):,} of its packed ternaries are 3, which stands for nothing",
                slug="checkpoint-packed-code",
            )
        return torch.from_numpy(codes.astype(np.float32)) - 1

    def grid(self, raw: Sequence[RawTensor]) -> HeldGrid:
        """One scale for the tensor."""
        scale = raw[1].float32().reshape(1, 1, 1)
        return HeldGrid(1 / scale if self.divides else scale, None, -1, 1)


def weights(stored: Stored, *, divides: bool) -> dict[str, Weight]:
    """Every linear map that has a `weight_scale`.

    Args:
        stored: what the files hold; what is used is taken.
        divides: see `Ternary`.
    """
    found = {}
    for module in stored.modules("weight_scale"):
        scale = expect(stored.take(module, "weight_scale", *FLOATS), (1,), ())
        weight = matrix(stored.take(module, "weight", "U8", *FLOATS))
        packed = weight.dtype == "U8"
        rows, columns = weight.shape
        shape = (PER_BYTE * rows if packed else rows, columns)
        found[f"{module}.weight"] = Weight(shape, Ternary(divides, packed), (weight, scale))
    return found
