"""Rounded activations, as BitNet b1.58 has them in front of every ternary linear map."""

from collections.abc import Container
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peelbound.workers.quantisers.grid import straight_through

_HIGH = 127
_SMALLEST = 1e-5


def quantise_tokens(x: Tensor) -> Tensor:
    """8 bits per token: codes round(127 x / max |x|) cut to −128..127, per vector of the last dimension.

    BitNet b1.58 (Ma et al. 2024, arXiv 2402.17764), section 2: absmax without zero point; bits as in transformers'
    `ActQuant`. Straight-through gradient.

    Args:
        x: [..., features].
    """
    dense = x.detach()
    rate = _HIGH / dense.abs().amax(-1, keepdim=True).clamp(min=_SMALLEST)
    return straight_through((dense * rate).round().clamp(-_HIGH - 1, _HIGH) / rate, x)


def round_inputs(module: nn.Module, names: Container[str]) -> None:
    """Round what enters these linear layers (by the names of their weights within the module), from now on."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | Conv1D) and (f"{name}.weight" if name else "weight") in names:
            layer.register_forward_pre_hook(_rounded)


def _rounded(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (quantise_tokens(args[0]), *args[1:])
