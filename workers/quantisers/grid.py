"""A grid with its scales: what low-bit weights lie on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from peelbound.workers.errors import CheckpointError, RequestError


@dataclass(frozen=True, eq=False)
class HeldGrid:
    """Equally spaced values per group of input channels, their scales and zeros fixed: scale · (code − zero).

    A packed tensor keeps its own grid while it is solved. Recomputing the scale instead would not do: absmean is not
    idempotent, dequantised ternaries {−a, 0, a} read through it get the scale a × density. With the grid held,
    `quantise` returns dequantised weights unchanged: bit by bit where there is no zero point, else up to a rounding.

    Attributes:
        scale: broadcasts against a weight [out, in] seen as [out, groups, in / groups]: [out or 1, groups or 1, 1].
            May be negative (signed absmax); 0 makes a whole group 0.
        zero: of the same shape, in codes, need not be whole; None: 0.
        low: the smallest code.
        high: the largest code.
        single: of the shape of `scale`, True for groups that have one value, that of code `low`; None: none has.
    """

    scale: Tensor
    zero: Tensor | None
    low: int
    high: int
    single: Tensor | None = None

    @classmethod
    def binary(cls, alpha: Tensor, beta: Tensor | None = None) -> "HeldGrid":
        """The two values β − α and β + α, as codes 0 and 1: α, β of the shape of `scale`.

        Where α is 0 and β is not, a group has one value, β.
        """
        if beta is None:
            return cls(2 * alpha, torch.full_like(alpha, 0.5), 0, 1)
        one = alpha == 0
        scale = torch.where(one, beta, 2 * alpha)
        zero = torch.where(one, -1.0, 0.5 - beta / torch.where(one, 1.0, 2 * alpha))
        return cls(scale, zero, 0, 1, one)

    @property
    def levels(self) -> int:
        """How many values a group may take."""
        return self.high - self.low + 1

    def grouped(self, weight: Tensor) -> Tensor:
        """A weight [out, in] as [out, groups, in / groups].

        Raises:
            RequestError: the groups do not divide its input channels (slug ``weights-group-indivisible``).
        """
        return in_groups(weight, weight.shape[1] // self.scale.shape[1] if self.scale.shape[1] > 1 else None)

    def codes(self, weight: Tensor) -> Tensor:
        """The nearest codes of a weight [out, in], as whole floats [out, groups, in / groups]; halves go up."""
        scale = torch.where(self.scale == 0, 1.0, self.scale)
        position = self.grouped(weight) / scale
        position = position if self.zero is None else position + self.zero
        codes = torch.floor(position + 0.5).clamp(self.low, self.high)
        return codes if self.single is None else codes.masked_fill(self.single, self.low)

    def values(self, codes: Tensor) -> Tensor:
        """The weight [out, in] of codes [out, groups, in / groups]."""
        shifted = codes if self.zero is None else codes - self.zero
        return (self.scale * shifted).flatten(1)

    def edges(self, weight: Tensor) -> Tensor:
        """How far each weight [out, in] lies from the middle of its code towards an edge: 0 there, ±1 at an edge.

        A group of one value has no edges: 0.
        """
        scale = torch.where(self.scale == 0, 1.0, self.scale)
        position = self.grouped(weight) / scale
        position = position if self.zero is None else position + self.zero
        edges = 2 * (position - self.codes(weight))
        return (edges if self.single is None else edges.masked_fill(self.single, 0.0)).flatten(1)

    def quantise(self, weight: Tensor) -> Tensor:
        """The nearest grid points of a weight [out, in], exactly; the gradient passes as if nothing had happened."""
        return straight_through(self.values(self.codes(weight.detach())), weight)

    __call__ = quantise

    def to(self, device: torch.device | str) -> "HeldGrid":
        """The same grid elsewhere."""
        zero, single = (None if values is None else values.to(device) for values in (self.zero, self.single))
        return HeldGrid(self.scale.to(device), zero, self.low, self.high, single)

    def checked(self, name: str) -> "HeldGrid":
        """This grid, if its scales and zeros are finite.

        Raises:
            CheckpointError: slug ``weights-scales-not-finite``, naming the tensor.
        """
        for what, values in (("scale", self.scale), ("zero point", self.zero)):
            if values is not None and not bool(torch.isfinite(values).all()):
                bad = int((~torch.isfinite(values)).sum())
                raise CheckpointError(
                    f"{name}: {bad:,} of {values.numel():,} {what}s of its groups are NaN or Inf.",
                    slug="weights-scales-not-finite",
                    remedy="Quantise the model again: a group with a NaN scale has no weights.",
                    pointer="/checkpoint",
                    tensor=name,
                )
        return self


def in_groups(weight: Tensor, group: int | None) -> Tensor:
    """A weight [out, in] as [out, in / group, group]; None: one group.

    Raises:
        RequestError: the group does not divide the input channels (slug ``weights-group-indivisible``).
    """
    inputs = weight.shape[1]
    if group is not None and (group < 1 or inputs % group):
        raise RequestError(
            f"Groups of {group} do not divide the {inputs} input channels of a linear map.",
            slug="weights-group-indivisible",
            remedy="Take a group size that divides the input channels of every linear map of a block, or none.",
            pointer="/options/weights",
        )
    return weight.reshape(weight.shape[0], -1, group or inputs)


def straight_through(value: Tensor, weight: Tensor, passes: Tensor | None = None) -> Tensor:
    """`value`, exactly, with the gradient of `weight` (Bengio et al. 2013, arXiv 1308.3432).

    Args:
        value: what the forward pass sees.
        weight: of the same shape; finite.
        passes: where the gradient passes; everywhere by default.
    """
    # The bracket is zero, so nothing is added to the value: w + (q − w) would round.
    bracket = weight - weight.detach()
    return value.detach() + (bracket if passes is None else bracket * passes)
