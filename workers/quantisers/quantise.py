"""Dense weights on the grid of a scheme, its scales computed from the weights at hand."""

from torch import Tensor

from peelbound.workers.quantisers import binary, gguf, integer, ternary
from peelbound.workers.quantisers.coded import Coded
from peelbound.workers.quantisers.grid import straight_through
from peelbound.workers.quantisers.scheme import Scheme


def coded(weight: Tensor, scheme: Scheme) -> Coded:
    """Codes and grid of a weight [out, in], rounded to nearest; no gradient.

    Raises:
        RequestError: the group does not divide the input channels (slug ``weights-group-indivisible``).
        ValueError: the scheme is `full`, which has no grid.
    """
    dense, bits, group = weight.detach(), scheme.bits or 0, scheme.group
    match scheme.kind:
        case "binary":
            return binary.xnor(dense, group)
        case "binary-fbi":
            return binary.fbi(dense, group)
        case "ternary":
            return ternary.absmean(dense, group)
        case "ternary-twn":
            return ternary.twn(dense, group)
        case "int":
            return integer.signed_absmax(dense, bits, group)
        case "gguf":
            return gguf.symmetric(dense, bits, group)
        case "gguf-affine":
            return gguf.affine(dense, bits, group)
    raise ValueError(f"{scheme} has no grid")


def quantise(weight: Tensor, scheme: Scheme) -> Tensor:
    """The weight [out, in] on its grid: exact grid points forward, straight through backward.

    The gradient is the identity; for the binary kinds it is cut where |w| > 1, as their sources have it.
    """
    if scheme.full:
        return weight
    passes = binary.gradient_passes(weight.detach()) if scheme.kind.startswith("binary") else None
    return straight_through(coded(weight, scheme).weight, weight, passes)
