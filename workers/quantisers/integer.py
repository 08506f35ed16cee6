"""k-bit symmetric weights, a scale per output channel or per group."""

import torch
from torch import Tensor

from peelbound.workers.quantisers.coded import Coded
from peelbound.workers.quantisers.grid import HeldGrid, in_groups


def signed_absmax(weight: Tensor, bits: int, group: int | None) -> Coded:
    """Codes −2^(k−1) … 2^(k−1) − 1, scaled so that the weight of largest size gets the code −2^(k−1), exactly.

    The symmetric grid of AutoRound (Cheng et al. 2023, arXiv 2309.05516; `quant_tensor_sym`), on which GGUF's Q4_0 is
    built too: since there is one more code below zero than above, the scale takes the sign that gives it to the
    extreme. Idempotent: the extreme, a power of two times the scale, gives the same scale again.
    """
    grouped = in_groups(weight, group)
    extreme = signed_extreme(grouped)
    half = 1 << (bits - 1)
    grid = HeldGrid(extreme / -half, None, -half, half - 1)
    safe = torch.where(grid.scale == 0, 1.0, grid.scale)
    return Coded((grouped / safe).round().clamp(-half, half - 1), grid)


def signed_extreme(grouped: Tensor) -> Tensor:
    """The first weight of largest size of each group, with its sign: [out, groups, n] -> [out, groups, 1]."""
    return grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True))
