"""Weights in 8-bit floats, with one scale per tensor, per output channel or per tile.

Sources: transformers, integrations/finegrained_fp8.py (`Fp8Dequantize`; DeepSeek-V3's `weight_scale_inv`, tiles of 128
by 128, the last ones cut off), and compressed-tensors 0.20 (`float-quantized`: `weight_scale`). Both scales multiply:
`weight_scale_inv` is the inverse of what the weights were multiplied by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from peelbound.workers.checkpoint.decoders import Decoder, RawTensor
from peelbound.workers.checkpoint.layout import Weight
from peelbound.workers.checkpoint.packed.stored import FLOATS, Stored, expect, matrix

DTYPES = ("F8_E4M3", "F8_E5M2")
TILE = (128, 128)


@dataclass(frozen=True)
class Float8(Decoder):
    """Of the weight [out, in] and its scales.

    Attributes:
        tile: rows and columns that share a scale; None: the scales broadcast as they are.
    """

    tile: tuple[int, int] | None

    def decode(self, raw: Sequence[RawTensor]) -> Tensor:
        """Weight times scale, [out, in]; 8-bit floats are no uniform grid."""
        weight, scale = raw[0].tensor().to(torch.float32), raw[1].float32()
        if self.tile is None:
            return weight.mul_(scale.reshape(-1, 1) if scale.ndim < 2 else scale)
        (rows, columns), (out, inputs) = self.tile, weight.shape
        for row in range(scale.shape[0]):  # a tile row at a time: no second matrix of scales
            wide = scale[row].repeat_interleave(columns)[:inputs]
            weight[row * rows : min((row + 1) * rows, out)].mul_(wide)
        return weight


def weights(stored: Stored, *, tile: tuple[int, int] | None) -> dict[str, Weight]:
    """Every linear map that has a `weight_scale_inv` or a `weight_scale`.

    Args:
        stored: what the files hold; what is used is taken.
        tile: of `weight_scale_inv`; None: one scale per tensor.
    """
    found = {}
    for name in ("weight_scale_inv", "weight_scale"):
        for module in stored.modules(name):
            found[f"{module}.weight"] = weight(stored, module, name, tile)
            stored.drop(module, "activation_scale", "input_scale", "input_scale_ub")
    return found


def weight(stored: Stored, module: str, scale_name: str, tile: tuple[int, int] | None = None) -> Weight:
    """One linear map; raises `CheckpointError` as `Stored.take` and `expect` do."""
    codes = matrix(stored.take(module, "weight", *DTYPES))
    outputs, inputs = codes.shape
    scale = stored.take(module, scale_name, *FLOATS)
    tiles = (ceil(outputs / tile[0]), ceil(inputs / tile[1])) if tile else (1, 1)
    expect(scale, tiles, (outputs, 1), (outputs,), (1,), ())
    tiled = tile is not None and scale.shape == tiles
    return Weight(codes.shape, Float8(tile if tiled else None), (codes, scale))
