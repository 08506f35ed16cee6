"""What a solver moves in place of a block's parameters, where its linear maps live in a weight class."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from peelbound.workers.quantisers.maps import LinearMap
from peelbound.workers.quantisers.weight_class import Rounding


class Latents:
    """A block's parameters as an optimiser sees them.

    The block itself holds the rounded weights throughout, so passes and what is stored know nothing of rounding.
    Behind each restricted map stands a latent weight in full precision (Courbariaux et al. 2015, arXiv 1511.00363):
    `collect` carries the gradients of the rounded weights over to it, straight through, and `place` rounds it anew
    once it has moved. Rounding so takes place once a step, not once a pass.

    Attributes:
        parameters: what to optimise: latent weights of the restricted maps, the block's own parameters otherwise.
    """

    def __init__(
        self,
        block: nn.Module,
        rounding: Mapping[LinearMap, Rounding] | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take a block over.

        Args:
            block: in full precision, all its parameters are to be moved.
            rounding: of the restricted maps; none: the block is solved in full precision.
            start: latent weights by name; the block's own weights where there are none.
        """
        self._rounding, self._rounded = dict(rounding or {}), dict[LinearMap, Tensor]()
        own = dict(block.named_parameters())
        self._held = {linear: own[linear.name] for linear in self._rounding}
        given = start or {}
        self._latent = {
            linear: nn.Parameter(given.get(linear.name, held).detach().clone().to(held.device))
            for linear, held in self._held.items()
        }
        by_name = {linear.name: latent for linear, latent in self._latent.items()}
        self.parameters = [by_name.get(name, p) for name, p in own.items()]
        for p in own.values():
            p.requires_grad_(True)
        self.place()

    def place(self) -> None:
        """Round the latent weights into the block."""
        for linear, put in self._rounding.items():
            rounded = put(linear.rows(self._latent[linear]))
            self._rounded[linear] = rounded
            with torch.no_grad():
                self._held[linear].copy_(linear.rows(rounded.detach()))

    def collect(self) -> None:
        """Carry the gradients of the block's rounded weights over to the latent ones."""
        for linear, held in self._held.items():
            if held.grad is not None:
                torch.autograd.backward(self._rounded[linear], linear.rows(held.grad))
                held.grad = None

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in (*self.parameters, *self._held.values()):
            p.grad = None
