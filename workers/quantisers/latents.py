"""What a solver moves in place of a block's parameters, where its linear maps live in a weight class."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from peelbound.workers.quantisers.weight_class import Roundings


class Latents:
    """A block's parameters as an optimiser sees them.

    The block itself holds the rounded weights throughout, so passes and what is stored know nothing of rounding.
    Behind each restricted map stands a latent weight in full precision (Courbariaux et al. 2015, arXiv 1511.00363):
    `collect` carries the gradients of the rounded weights over to it, straight through, and `place` rounds it anew
    once it has moved. Rounding so takes place once a step, not once a pass.

    Attributes:
        parameters: what to optimise: latent weights of the restricted maps, the block's own parameters otherwise.
        steps: of each of them: the mean step of the grid that its map is held to; None where there is none.
    """

    def __init__(
        self, block: nn.Module, rounding: Roundings | None = None, start: Mapping[str, Tensor] | None = None
    ) -> None:
        """Take a block over.

        Args:
            block: in full precision, all its parameters are to be moved.
            rounding: of the restricted maps; none: the block is solved in full precision.
            start: latent weights by name; the block's own weights where there are none.
        """
        own = dict(block.named_parameters())
        self._rounding = {name: put.to(own[name].device) for name, put in (rounding or {}).items()}
        self._held = {name: own[name] for name in self._rounding}
        self._rounded = dict[str, Tensor]()
        given = start or {}
        self._latent = {
            name: nn.Parameter(given.get(name, held).detach().clone().to(held.device))
            for name, held in self._held.items()
        }
        self.parameters = [self._latent.get(name, p) for name, p in own.items()]
        self.steps = [self._rounding[name].step if name in self._rounding else None for name in own]
        for p in own.values():
            p.requires_grad_(True)
        self.place()

    def restricted(self, name: str) -> bool:
        """Whether a parameter of the block, by its name there, lives in a weight class."""
        return name in self._held

    def place(self, moved: Sequence[nn.Parameter] | None = None) -> None:
        """Round the latent weights into the block: all, or those among the parameters that moved."""
        for name, put in self._rounding.items():
            if moved is not None and not any(p is self._latent[name] for p in moved):
                continue
            self._rounded[name] = put(self._latent[name])
            with torch.no_grad():
                self._held[name].copy_(self._rounded[name])

    def collect(self) -> None:
        """Carry the gradients of the block's rounded weights over to the latent ones."""
        for name, held in self._held.items():
            if held.grad is not None:
                torch.autograd.backward(self._rounded[name], held.grad)
                held.grad = None

    def moved(self, before: Mapping[str, Tensor]) -> float:
        """Share (0 to 1) of the rounded weights that are not what they were: of a held grid, of its codes.

        Args:
            before: the block's weights by name, as they were when it was taken over. They are rounded to be compared:
                weights that were stored in half precision lie beside their grid by what that rounds.
        """
        with torch.no_grad():
            changed = [
                int((held != self._rounding[name](before[name].to(held.device))).sum())
                for name, held in self._held.items()
            ]
        return sum(changed) / max(1, sum(held.numel() for held in self._held.values()))

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in (*self.parameters, *self._held.values()):
            p.grad = None
