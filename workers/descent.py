"""Stochastic gradient descent on some of a block's weights: the draw of the batches, the schedule, the optimiser."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from peelbound.workers.passes import Ints
from peelbound.workers.quantisers.latents import Latents
from peelbound.workers.recipes import StateSettings

OnStep = Callable[[int], None]
"""Called before each optimiser step with its number; may raise to stop the solve (cancellation)."""


def descend(
    latents: Latents,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[Ints], Tensor],
    count: int,
    batch: int,
    settings: StateSettings,
    draw: np.random.Generator,
    on_step: OnStep,
) -> None:
    """Minimise a mean over items, in place, by AdamW without decay of weights.

    Args:
        latents: of the block.
        parameters: which of `latents.parameters` to move; the loss depends on all of them.
        loss: mean over the items whose numbers it is given, [batch].
        count: how many items there are.
        batch: items a step.
        settings: steps, rate and schedule.
        draw: of the order of the items.
        on_step: see `OnStep`.
    """
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    batches = _batches(count, min(batch, count), draw)
    for step in range(settings.steps):
        on_step(step)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _share(settings, step)
        latents.zero_grad()
        loss(next(batches)).backward()
        latents.collect()
        optimiser.step()
        latents.place(parameters)


def _batches(count: int, batch: int, draw: np.random.Generator) -> Iterator[Ints]:
    """Numbers of items, ascending within a batch; all are drawn equally often, a round's rest goes into the next."""
    order = np.empty(0, dtype=np.int64)
    while True:
        if len(order) < batch:
            order = np.concatenate([order, draw.permutation(count)])
        yield np.sort(order[:batch])
        order = order[batch:]


def _share(settings: StateSettings, step: int) -> float:
    """Of the peak learning rate at a step: warmed up over 5% of the steps, falling to zero meanwhile."""
    warmup, done = max(1, round(0.05 * settings.steps)), step / settings.steps
    falling = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return min(1.0, (step + 1) / warmup) * falling
