"""The weight class of one audited model, and what it means for the blocks that are solved."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from peelbound.workers.quantisers.grid import HeldGrid
from peelbound.workers.quantisers.maps import LinearMap, linear_maps
from peelbound.workers.quantisers.quantise import quantise
from peelbound.workers.quantisers.recognise import held_grid
from peelbound.workers.quantisers.scheme import FULL, Scheme

Rounding = Callable[[Tensor], Tensor]
"""A weight [out, in] put on its grid, differentiable straight through."""


@dataclass(frozen=True)
class WeightClass:
    """What the linear maps of a model's blocks are restricted to.

    Attributes:
        scheme: of fresh blocks; of the trained ones too, but those that lie on a grid keep its scales.
        latent: whether the stored weights are the full-precision ones of quantisation-aware training, which the model
            rounds on every pass.
        full_maps: linear maps of a block that stay in full precision, by name.
    """

    scheme: Scheme = FULL
    latent: bool = False
    full_maps: tuple[str, ...] = ()

    def maps(self, block: nn.Module) -> list[LinearMap]:
        """The linear maps of a block that are restricted."""
        if self.scheme.full:
            return []
        return [linear for linear in linear_maps(block) if linear.name not in self.full_maps]

    def fresh(self, block: nn.Module) -> dict[LinearMap, Rounding]:
        """How a fresh block is rounded: by the scheme, with scales that follow the weights."""
        return {linear: partial(quantise, scheme=self.scheme.weights) for linear in self.maps(block)}

    def trained(
        self, block: nn.Module, tensors: Mapping[str, Tensor], grids: Mapping[str, HeldGrid]
    ) -> dict[LinearMap, Rounding]:
        """How a trained block is rounded: latent weights by the scheme, others on the grid that they lie on.

        Args:
            block: a block of this kind, with or without weights.
            tensors: its weights as they are stored, dequantised where packed.
            grids: of the packed ones.

        Returns:
            By linear map. A map that should lie on a grid and does not is left out, and stays in full precision.
        """
        if self.latent:
            return self.fresh(block)
        found: dict[LinearMap, Rounding] = {}
        for linear in self.maps(block):
            grid = grids.get(linear.name) or held_grid(linear.rows(tensors[linear.name]), self.scheme)
            if grid is not None:
                found[linear] = grid.quantise
        return found


def effective(tensors: Mapping[str, Tensor], rounding: Mapping[LinearMap, Rounding]) -> dict[str, Tensor]:
    """A block's weights as its passes see them: the linear maps rounded, the others as they are."""
    rounded = {
        linear.name: linear.rows(put(linear.rows(tensors[linear.name]))).contiguous()
        for linear, put in rounding.items()
    }
    return {**tensors, **rounded}


FULL_PRECISION = WeightClass()
