"""The linear maps of a block: what a weight class is about. Norms, biases and routers stay in full precision."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peelbound.workers.quantisers.activations import quantise_tokens


@dataclass(frozen=True)
class LinearMap:
    """A linear map of a module.

    Attributes:
        name: of its weight within the module, e.g. ``mlp.up_proj.weight``.
        transposed: whether the weight is stored [in, out], as GPT-2 has it.
    """

    name: str
    transposed: bool

    def rows(self, weight: Tensor) -> Tensor:
        """The weight as [out, in], from how it is stored; and back, since both are the same turn."""
        return weight.T if self.transposed else weight


def _linear(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # By type and not by shape: an embedding or a router may be a matrix too.
    return ((name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear | Conv1D))


def linear_maps(module: nn.Module) -> list[LinearMap]:
    """All linear maps inside a block, by name."""
    found = [LinearMap(f"{name}.weight" if name else "weight", isinstance(m, Conv1D)) for name, m in _linear(module)]
    return sorted(found, key=lambda linear: linear.name)


def round_inputs(module: nn.Module, names: Container[str]) -> None:
    """Round what enters these linear maps (by the names of their weights) to 8 bits per token, from now on."""
    for name, linear in _linear(module):
        if (f"{name}.weight" if name else "weight") in names:
            linear.register_forward_pre_hook(_rounded)


def _rounded(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (quantise_tokens(args[0]), *args[1:])
