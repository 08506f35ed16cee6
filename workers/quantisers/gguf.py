"""The legacy grids of GGUF, groups of 32: scales in half precision, codes as ggml's reference quantiser has them.

Source: ggml-quants.c (`quantize_row_q4_0_ref` and its siblings) and gguf-py's quants.py, which agree to the bit.
"""

import torch
from torch import Tensor

from peelbound.workers.quantisers.coded import Coded
from peelbound.workers.quantisers.grid import HeldGrid, in_groups
from peelbound.workers.quantisers.integer import signed_extreme


def symmetric(weight: Tensor, bits: int, group: int | None) -> Coded:
    """Q4_0 and Q5_0: d = −extreme / 2^(k−1), codes ⌊w/d + 1/2⌋ cut to −2^(k−1) … 2^(k−1) − 1.

    Q8_0: d = max |w| / 127, halves rounded away from zero.
    """
    grouped = in_groups(weight, group)
    if bits == 8:
        scale = grouped.abs().amax(-1, keepdim=True) / 127
        position = grouped * _inverse(scale)
        codes = position.sign() * (position.abs() + 0.5).floor()
        return Coded(codes, HeldGrid(_half(scale), None, -127, 127))
    half = 1 << (bits - 1)
    scale = signed_extreme(grouped) / -half
    position = (grouped * _inverse(scale)).double() + (half + 0.5)
    codes = position.float().trunc().clamp(0, 2 * half - 1) - half
    return Coded(codes, HeldGrid(_half(scale), None, -half, half - 1))


def affine(weight: Tensor, bits: int, group: int | None) -> Coded:
    """Q4_1 and Q5_1: d = (max − min) / (2^k − 1), codes ⌊(w − min)/d + 1/2⌋, value d · code + min.

    As a grid with a zero point −min/d, whose values equal d · code + min up to one rounding.
    """
    grouped = in_groups(weight, group)
    least, last = grouped.amin(-1, keepdim=True), (1 << bits) - 1
    scale = (grouped.amax(-1, keepdim=True) - least) / last
    codes = ((grouped - least) * _inverse(scale) + 0.5).trunc().clamp(0, last)
    held, offset = _half(scale), _half(least)
    flat = held == 0  # a group of one value, as half precision sees it: its offset is all there is, whatever the scale
    codes = torch.where(flat, 0.0, codes)
    return Coded(codes, HeldGrid(torch.where(flat, 1.0, held), -offset / torch.where(flat, 1.0, held), 0, last))


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale; 0 where that is not finite: such a group is nothing in half precision either."""
    inverse = 1 / scale
    return torch.where(torch.isfinite(inverse), inverse, 0.0)


def _half(values: Tensor) -> Tensor:
    return values.half().to(values.dtype)
