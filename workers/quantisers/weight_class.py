"""The weight class of one audited model, and what it means for the blocks that are solved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from peelbound.workers.linear_maps import LinearMap
from peelbound.workers.quantisers.grid import HeldGrid
from peelbound.workers.quantisers.quantise import quantise
from peelbound.workers.quantisers.recognise import held_grid
from peelbound.workers.quantisers.scheme import FULL, Scheme

Rounding = Callable[[Tensor], Tensor]
"""A matrix [out, in] put on its grid, differentiable straight through."""


@dataclass(frozen=True)
class Rounded:
    """How one linear map is put on its grid.

    Attributes:
        linear: the map.
        puts: for each of its matrices (experts have several) how it is put on its grid.
        step: mean distance, over groups, from one value to the next; None where scales follow the weights.
    """

    linear: LinearMap
    puts: tuple[Rounding, ...]
    step: float | None = None

    def __call__(self, weight: Tensor) -> Tensor:
        """The parameter, in the shape that the block has it, on its grid."""
        matrices = self.linear.matrices(weight)
        return self.linear.parameter(torch.stack([put(m) for put, m in zip(self.puts, matrices, strict=True)]))

    def to(self, device: torch.device) -> "Rounded":
        """The same with the grids that are held on the device of the weights."""
        return replace(self, puts=tuple(put.to(device) if isinstance(put, HeldGrid) else put for put in self.puts))


Roundings = Mapping[str, Rounded]
"""By the name of the parameter within the block."""


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

    def restricted(self, maps: Sequence[LinearMap]) -> list[LinearMap]:
        """Those of a block's linear maps that are restricted."""
        return [] if self.scheme.full else [linear for linear in maps if linear.name not in self.full_maps]

    def fresh(self, maps: Sequence[LinearMap]) -> dict[str, Rounded]:
        """How a fresh block is rounded: by the scheme, with scales that follow the weights."""
        put = partial(quantise, scheme=self.scheme.weights)
        return {linear.name: Rounded(linear, (put,) * linear.count) for linear in self.restricted(maps)}

    def trained(
        self, maps: Sequence[LinearMap], tensors: Mapping[str, Tensor], grids: Mapping[str, HeldGrid]
    ) -> dict[str, Rounded]:
        """How a trained block is rounded: latent weights by the scheme, others on the grid that they lie on.

        Args:
            maps: the block's linear maps.
            tensors: its weights as they are stored, dequantised where packed.
            grids: of the packed ones.

        Returns:
            By parameter. A map that should lie on a grid and does not is left out, and stays in full precision.
        """
        if self.latent:
            return self.fresh(maps)
        found: dict[str, Rounded] = {}
        for linear in self.restricted(maps):
            held = grids.get(linear.name)
            matrices = linear.matrices(tensors[linear.name])
            on = [held] if held is not None else [held_grid(matrix, self.scheme) for matrix in matrices]
            held_grids = [grid for grid in on if grid is not None]
            if len(held_grids) == linear.count:
                step = sum(float(grid.scale.abs().mean()) for grid in held_grids) / linear.count
                found[linear.name] = Rounded(linear, tuple(held_grids), step)
        return found


def effective(tensors: Mapping[str, Tensor], rounding: Roundings) -> dict[str, Tensor]:
    """A block's weights as its passes see them: the linear maps rounded, the others as they are."""
    return {**tensors, **{name: put(tensors[name]).contiguous() for name, put in rounding.items()}}


FULL_PRECISION = WeightClass()
