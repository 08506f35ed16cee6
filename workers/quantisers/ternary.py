"""Three values: −a, 0 and a."""

from torch import Tensor

from peelbound.workers.quantisers.coded import Coded
from peelbound.workers.quantisers.grid import HeldGrid, in_groups

SMALLEST = 1e-5
"""Least absmean, so that a tensor of zeros has a scale (as the authors' code and transformers' BitLinear have it)."""
THRESHOLD = 0.7
"""TWN's dead zone in units of mean |W|: the optimum for normal weights is 0.75, for uniform ones 2/3."""


def absmean(weight: Tensor, group: int | None) -> Coded:
    """a = mean |W| of the tensor (of a group where one is given), codes round(W / a) cut to −1..1.

    BitNet b1.58 (Ma et al. 2024, arXiv 2402.17764), equations 1 to 3. Not idempotent: of {−a, 0, a} it makes a scale of
    a × density.
    """
    grouped = in_groups(weight, group)
    size = grouped.abs()
    mean = size.mean().reshape(1, 1, 1) if group is None else size.mean(-1, keepdim=True)
    rate = 1.0 / mean.clamp(min=SMALLEST)  # times and not divided by: the bits of transformers' BitLinear
    return Coded((grouped * rate).round().clamp(-1, 1), HeldGrid(1.0 / rate, None, -1, 1))


def twn(weight: Tensor, group: int | None) -> Coded:
    """Codes sign(W) where |W| > δ = 0.7 mean |W| of the output channel, a = mean |W| over those.

    Ternary weight networks (Li and Liu 2016, arXiv 1605.04711), equations 5 and 6. The paper's scale is a layer's; per
    output channel is how it is used for linear maps.
    """
    grouped = in_groups(weight, group)
    size = grouped.abs()
    kept = (size > THRESHOLD * size.mean(-1, keepdim=True)).to(weight.dtype)
    scale = (size * kept).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=1)
    return Coded(grouped.sign() * kept, HeldGrid(scale, None, -1, 1))
