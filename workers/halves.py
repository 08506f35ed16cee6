"""The halves of a block as peel problems of their own.

Attention is fitted to the trained state between the halves (the *middle*), its output projection then by least squares;
the MLP is fitted to the block's target on the peeled output of that attention, token by token in any order. So each
half has the target next to it, gradients pass through one half at a time, and the MLP's batches are of tokens that
share no sequence. It is what reference networks do with blocks, once more within a block.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peelbound.workers.descent import OnStep, descend
from peelbound.workers.linear_maps import LinearMap, linear_maps
from peelbound.workers.passes import Ints, grains
from peelbound.workers.quantisers.latents import Latents
from peelbound.workers.recipes import StateSettings
from peelbound.workers.residency import Held
from peelbound.workers.skeleton import Skeleton
from peelbound.workers.sublayers import Sublayers

_PASS = 8
"""Sequences a pass outside the steps. A constant: the shape of a product decides the order of its sums."""
_RIDGE = 1e-3
"""Of the least squares, as a share of the mean square of the inputs; 1e-2 to 1e-4 gave the same."""


_MLP_RATE = 2.0
"""Its learning rate over attention's: batches of tokens that share no sequence have less noise for their size."""


class _Given(nn.Module):
    """Stands in a sub-layer's place and returns the contribution that it was given.

    Attributes that the block asks the sub-layer for are the sub-layer's.
    """

    def __init__(self, original: nn.Module, entries: int) -> None:
        super().__init__()
        object.__setattr__(self, "original", original)  # not a child: its weights are out of sight
        self.entries = entries
        self.value = torch.zeros(())

    def forward(self, *_: Any, **__: Any) -> Any:
        return (self.value, *[None] * (self.entries - 1)) if self.entries else self.value

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.original, name)


@contextmanager
def _given(block: nn.Module, child: str, entries: int) -> Iterator[_Given]:
    """The block with one child replaced, for the time of the context."""
    original = block.get_submodule(child)
    stand_in = _Given(original, entries)
    block.set_submodule(child, stand_in)
    try:
        yield stand_in
    finally:
        block.set_submodule(child, original)


def solve_halves(
    skeleton: Skeleton,
    index: int,
    block: nn.Module,
    children: Sublayers,
    x: Held,
    middle: Held,
    target: Held,
    settings: StateSettings,
    draw: np.random.Generator,
    on_step: OnStep,
    latents: Latents,
) -> None:
    """Fit a fresh block's attention, then its MLP, in place; each takes the settings' steps.

    Args:
        skeleton: the model.
        index: of the block, 1..K.
        block: the fresh block.
        children: its attention and MLP.
        x: its input on fit, [N, T, D].
        middle: h[index−1] + what the trained block's attention adds, on fit, [N, T, D].
        target: h[index] on fit, [N, T, D].
        settings: of either half; a batch of the MLP holds as many tokens as one of attention.
        draw: of batches.
        on_step: see `OnStep`; its numbers go on from one half to the other.
        latents: what is moved in the block's place.
    """
    own = list(block.parameters())
    with _given(block, children.mlp, children.mlp_entries) as nothing:

        def up_to_middle(h: Tensor) -> Tensor:
            nothing.value = torch.zeros_like(h)
            return skeleton.run(index, block, h, plain=True)

        ours = _reached(up_to_middle(x.rows(slice(0, 1))), own, latents)
        scale = _scale(middle.rows(part) - x.rows(part) for part in grains(len(x), _PASS))

        def attention_loss(chosen: Ints) -> Tensor:
            return nn.functional.mse_loss(up_to_middle(x.take(chosen)), middle.take(chosen)) * scale

        descend(latents, ours, attention_loss, len(x), settings.batch, settings, draw, on_step)
        with torch.no_grad():
            _fit_output(skeleton, index, block, children, x, middle, latents, nothing)
            left = list[Tensor]()  # to the target, of each pass: numbers, not states

            def adding() -> Iterator[Tensor]:
                for part in grains(len(x), _PASS):
                    h = x.rows(part)
                    peeled = up_to_middle(h)
                    left.append((target.rows(part) - peeled).double().square().sum())
                    yield peeled - h

            added = Held.of_tensors(adding(), x.shape, skeleton.device, keep=x.resident)
    with _given(block, children.attention, children.attention_entries) as attention:
        sequences, length, width = x.shape
        scale = _reciprocal(left, sequences * length * width)

        def onwards(chosen: Ints) -> Tensor:
            # Each token stands alone here, so any of them may share a sequence.
            shape = (-1, length, width)
            attention.value = added.tokens(chosen).view(shape)
            return skeleton.run(index, block, x.tokens(chosen).view(shape), plain=True).view(-1, width)

        first = np.arange(length)
        theirs = [p for p in _reached(onwards(first), own, latents) if not any(p is q for q in ours)]

        def mlp_loss(chosen: Ints) -> Tensor:
            return nn.functional.mse_loss(onwards(chosen), target.tokens(chosen)) * scale

        batch = min(settings.batch, sequences) * length
        faster = replace(settings, learning_rate=_MLP_RATE * settings.learning_rate)
        descend(
            latents, theirs, mlp_loss, sequences * length, batch, faster, draw, lambda n: on_step(settings.steps + n)
        )


def _scale(contribution: Iterable[Tensor]) -> float:
    """One over its mean square, so that losses of all targets are alike; [N, T, D] in pieces."""
    squares, numbers = list[Tensor](), 0
    for piece in contribution:
        squares.append(piece.double().square().sum())
        numbers += piece.numel()
    return _reciprocal(squares, numbers)


def _reciprocal(squares: list[Tensor], numbers: int) -> float:
    """One over the mean of that many squares, whose sums are given; waits for the device once."""
    total: float = sum(torch.stack(squares).tolist())
    return 1.0 / max(total / numbers, 1e-30)


def _reached(output: Tensor, own: list[nn.Parameter], latents: Latents) -> list[nn.Parameter]:
    """Of `latents.parameters`, those whose counterparts among the block's own the output depends on."""
    found: tuple[Tensor | None, ...] = torch.autograd.grad(output.sum(), own, allow_unused=True)
    return [moved for moved, slope in zip(latents.parameters, found, strict=True) if slope is not None]


def _fit_output(
    skeleton: Skeleton,
    index: int,
    block: nn.Module,
    children: Sublayers,
    x: Held,
    middle: Held,
    latents: Latents,
    nothing: _Given,
) -> None:
    """Solve attention's output projection by ridge regression of what is left to the middle on the heads' outputs.

    Nothing is done where attention's contribution is no linear map's output (a norm comes after it), or where that map
    lives in a weight class: rounding would undo the solution.
    """
    linear = _output_map(skeleton, index, block, children, x.rows(slice(0, 1)), nothing)
    if linear is None or latents.restricted(linear.name):
        return
    weight = block.get_parameter(linear.name)
    inputs = linear.matrices(weight).shape[-1]
    gram = torch.zeros(inputs, inputs, dtype=torch.float64, device=skeleton.device)
    cross = torch.zeros(inputs, x.shape[-1], dtype=torch.float64, device=skeleton.device)
    heads: list[Tensor] = []
    handle = block.get_submodule(linear.name.removesuffix(".weight")).register_forward_pre_hook(
        lambda _, args: heads.append(args[0].reshape(-1, inputs).double())
    )
    try:
        for part in grains(len(x), _PASS):
            h = x.rows(part)
            nothing.value = torch.zeros_like(h)
            left = middle.rows(part) - skeleton.run(index, block, h, plain=True)
            z = heads.pop()
            gram += z.T @ z
            cross += z.T @ left.reshape(len(z), -1).double()
    finally:
        handle.remove()
    ridge = _RIDGE * gram.diagonal().mean()
    gram.diagonal().add_(torch.clamp(ridge, min=1e-30))
    linear.matrices(weight)[0].add_(torch.linalg.solve(gram, cross).T.float())


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(one.reshape(other.shape), other)


def _output_map(
    skeleton: Skeleton, index: int, block: nn.Module, children: Sublayers, h: Tensor, nothing: _Given
) -> LinearMap | None:
    """The linear map whose output is what attention adds."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    maps = {m.name.removesuffix(".weight"): m for m in linear_maps(block) if len(m.shape) == 2}
    watched = [children.attention, *(name for name in maps if name != children.attention)]
    handles = [block.get_submodule(name).register_forward_hook(watch(name)) for name in watched]
    try:
        nothing.value = torch.zeros_like(h)
        skeleton.run(index, block, h, plain=True)
    finally:
        for handle in handles:
            handle.remove()
    added = seen[children.attention]
    same = [m for name, m in maps.items() if name in seen and _equal(seen[name], added)]
    return same[0] if len(same) == 1 else None
