"""What a quantiser makes of dense weights."""

from dataclasses import dataclass

from torch import Tensor

from peelbound.workers.quantisers.grid import HeldGrid


@dataclass(frozen=True, eq=False)
class Coded:
    """Codes and the grid that they belong to.

    Attributes:
        codes: whole floats, [out, groups, in / groups].
        grid: their grid; its own nearest codes need not be these (TWN has a dead zone of its own).
    """

    codes: Tensor
    grid: HeldGrid

    @property
    def weight(self) -> Tensor:
        """The weight that they stand for, [out, in]."""
        return self.grid.values(self.codes)
