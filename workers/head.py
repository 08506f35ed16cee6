"""Refit of the head: final norm and output projection against the cross-entropy, with the blocks left as they are.

On trained states this is the *head control*: how far a fit of the head alone to the calibration tokens goes. On the
states of a reference network it is the last step of building that network. Both follow one recipe, so that the bound
can be compared with the control.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelbound.workers.descent import OnStep
from peelbound.workers.passes import Floats, Ints, Tokens, losses
from peelbound.workers.recipes import HeadSettings
from peelbound.workers.skeleton import Skeleton


@dataclass(frozen=True)
class HeadFit:
    """A refitted head and its losses per token."""

    parameters: dict[str, Tensor]
    chosen_step: int
    """0: the unchanged head was best on select."""
    fit: Floats
    """[N, T−1], zero where masked."""
    fit_unchanged: Floats
    select: Floats


@dataclass(frozen=True)
class HeadData:
    """States and tokens of one split: h[K] [N, T, D], ids [N, T], mask [N, T−1]."""

    states: Floats
    ids: Ints
    mask: NDArray[np.bool_]


def refit(
    skeleton: Skeleton,
    fit: HeadData,
    select: HeadData,
    settings: HeadSettings,
    seed: int,
    grain: int,
    on_step: OnStep,
) -> HeadFit:
    """Refit norm and output projection on `fit`, stopping where `select` is best.

    A tied head is untied first: the embedding does not move.
    """
    unchanged = skeleton.head_parameters()
    head = {name: p.clone().requires_grad_() for name, p in unchanged.items()}
    optimiser = torch.optim.Adam(head.values(), lr=settings.learning_rate, betas=(0.9, 0.95))
    best = {name: p.detach().clone() for name, p in head.items()}
    best_select, best_step = losses(skeleton, select.states, select.ids, select.mask, grain), 0
    draw = np.random.Generator(np.random.Philox(seed))
    order = np.empty(0, dtype=np.int64)
    batch = min(settings.batch, len(fit.states))
    looks = {round(settings.steps * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
    for step in range(1, settings.steps + 1):
        on_step(step - 1)
        if len(order) < batch:
            order = np.concatenate([order, draw.permutation(len(fit.states))])
        chosen, order = np.sort(order[:batch]), order[batch:]
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (1 - (step - 1) / settings.steps)
        optimiser.zero_grad(set_to_none=True)
        tokens = max(1, int(fit.mask[chosen].sum()))
        drawn = Tokens.on(skeleton.device, fit.states[chosen], fit.ids[chosen], fit.mask[chosen])
        for chunk in drawn.chunks():
            (chunk.losses(skeleton, head).sum() / tokens).backward()  # frees the graph of the chunk's logits
        optimiser.step()
        if step in looks:
            measured = losses(skeleton, select.states, select.ids, select.mask, grain, _detached(head))
            if measured.sum(dtype=np.float64) < best_select.sum(dtype=np.float64):
                best, best_select, best_step = _detached(head), measured, step
    fit_unchanged = losses(skeleton, fit.states, fit.ids, fit.mask, grain)
    fitted = losses(skeleton, fit.states, fit.ids, fit.mask, grain, best) if best_step else fit_unchanged
    return HeadFit(best, best_step, fitted, fit_unchanged, best_select)


def _detached(head: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in head.items()}
