"""Two values per output channel, or per group of its input channels."""

from torch import Tensor

from peelbound.workers.quantisers.coded import Coded
from peelbound.workers.quantisers.grid import HeldGrid, in_groups


def xnor(weight: Tensor, group: int | None) -> Coded:
    """±α with α = mean |W| and the signs of W, sign(0) = +1.

    XNOR-Net (Rastegari et al. 2016, arXiv 1603.05279), equations 5 and 6: that α is the best in the least squares for
    these signs.
    """
    grouped = in_groups(weight, group)
    return Coded((grouped >= 0).to(weight.dtype), HeldGrid.binary(grouped.abs().mean(-1, keepdim=True)))


def fbi(weight: Tensor, group: int | None) -> Coded:
    """β ± α with the signs of W, α = mean |W| and β = mean W of the channel.

    FBI-LLM (Ma et al. 2024, arXiv 2407.07093), section 3.2, where α and β are learned from this start. Here they
    follow the weights.
    """
    grouped = in_groups(weight, group)
    alpha, beta = grouped.abs().mean(-1, keepdim=True), grouped.mean(-1, keepdim=True)
    return Coded((grouped >= 0).to(weight.dtype), HeldGrid.binary(alpha, beta))


def gradient_passes(weight: Tensor) -> Tensor:
    """Where the gradient passes the sign: |w| ≤ 1 (XNOR-Net, section 3.1; FBI-LLM takes the same)."""
    return (weight.abs() <= 1).to(weight.dtype)
