"""What is measured on a copy of a model: one walk forward, one back, blocks left out in turn, and the weights alone.

Raw numbers only, so that rules can be tried on them without measuring again. Shapes: K blocks, N sequences, T tokens,
C channels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.damage.cases import Copy
from bench.damage.subject import GRAIN, Subject, Text
from peelbound.workers import passes
from peelbound.workers.device import upload
from peelbound.workers.passes import Floats, grains

GROUPS = 8
"""Groups of neighbouring sequences whose parameter gradients are compared; as many as there are, if fewer."""
SKIPPED_BELOW = 0.5
"""Blocks of less influence than this share of the others' median are left out in turn: it takes a pass through all that
follows for each, and for the others no rule asks."""
Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """One walk through a copy's loaded blocks and back."""

    loaded: list[nn.Module]
    states: list[Floats]
    """h[0..K] on fit and check, [N, T, C] each."""
    gradients: list[Floats]
    """∂ΣCE/∂h[0..K] on the same."""


@dataclass
class Walked:
    """What the two walks of a copy over a text leave."""

    losses: Sums
    """Per document."""
    influence: list[float]
    skip: list[Sums | None]
    """Per block: loss sums per document of check without it; None where that was not measured."""
    scores: list[dict[str, Sums]]
    """Per block: Σ ⟨∂CE/∂y, y⟩ per document by name: `attention`, `mlp`, `block`, `head 0` …, each leaf module's."""
    gradients: list[Sums]
    """Per block: Gram matrix of its parameter gradients on groups of fit, [groups, groups]."""
    course: Course
    """What solves start from."""


def walk(subject: Subject, copy: Copy, text: Text) -> Walked:
    """Measure a copy on a text."""
    skeleton, blocks = subject.skeleton, subject.blocks
    loaded = [copy.load(skeleton, i) for i in range(1, blocks + 1)]
    states = [subject.embed(text)]
    influence = []
    for index, block in enumerate(loaded, start=1):
        states.append(passes.forward(skeleton, index, block, states[-1], GRAIN))
        cosines = passes.cosine(states[-2][text.fit :], states[-1][text.fit :])
        influence.append(1 - float(cosines[text.document[text.fit :] >= 0].mean(dtype=np.float64)))
    losses, g = passes.loss_gradient(skeleton, states[-1], text.ids, text.mask, GRAIN)
    gradients = [g]
    found = Walked(text.sums(losses), influence, [], [], [], Course(loaded, states, gradients))
    for index in range(1, blocks + 1):
        others = float(np.median(np.delete(influence, index - 1)))
        if influence[index - 1] > SKIPPED_BELOW * others:
            found.skip.append(None)
            continue
        found.skip.append(check_losses(subject, text, loaded, index, states[index - 1][text.fit :]))
    for index in range(blocks, 0, -1):
        g = _back(subject, index, loaded[index - 1], states[index - 1], g, text, found)
        gradients.append(g)
    for rows_by_block in (found.scores, found.gradients, gradients):
        rows_by_block.reverse()
    return found


def onward(subject: Subject, loaded: Sequence[nn.Module], index: int, states: Floats) -> Floats:
    """From the output of block `index` to that of the last."""
    for later in range(index + 1, subject.blocks + 1):
        states = passes.forward(subject.skeleton, later, loaded[later - 1], states, GRAIN)
    return states


def check_losses(subject: Subject, text: Text, loaded: Sequence[nn.Module], index: int, states: Floats) -> Sums:
    """Loss sums per document with these states of check as the output of block `index`; 0 for those of fit."""
    last = onward(subject, loaded, index, states)
    rows = passes.losses(subject.skeleton, last, text.ids[text.fit :], text.mask[text.fit :], GRAIN)
    return text.sums(np.concatenate([np.zeros((text.fit, *rows.shape[1:]), rows.dtype), rows]))


def _back(
    subject: Subject, index: int, block: nn.Module, states: Floats, gradient: Floats, text: Text, found: Walked
) -> Floats:
    skeleton = subject.skeleton
    attention = next(m for _, m in block.named_children() if type(m).__name__.endswith("Attention"))
    leaves = {n: m for n, m in block.named_modules() if next(m.children(), None) is None and _weighted(m)}
    inside = set(attention.modules())
    out = next(n for n in leaves if n.endswith(("o_proj", "attn.c_proj")) and leaves[n] in inside)
    caught: dict[str, Tensor] = {}

    def expose(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            caught[name] = output
            if name == out:
                caught["heads"] = args[0]
            return output

        return hook

    handles = [m.register_forward_hook(expose(n)) for n, m in leaves.items()]
    parameters = list(block.parameters())
    for p in parameters:
        p.requires_grad_(True)
    size = -(-text.fit // GROUPS)
    grads = [[torch.zeros_like(p) for p in parameters] for _ in range(-(-text.fit // size))]
    below: list[Floats] = []
    rows: dict[str, list[Tensor]] = {}
    try:
        for part in grains(len(states), math.gcd(GRAIN, size, text.fit)):  # none of two groups, nor of fit and check
            h = upload(states[part], "cpu").requires_grad_()
            g = upload(gradient[part], "cpu")
            caught.clear()
            trace = skeleton.sublayers(index, block, h)
            assert trace.attention is not None
            assert trace.mlp is not None
            watched = {"attention": trace.attention, "mlp": trace.mlp, **caught}
            in_fit = part.start < text.fit
            inputs = [h, *watched.values(), *(parameters if in_fit else ())]
            by = torch.autograd.grad(trace.output, inputs, grad_outputs=g)
            below.append(by[0].numpy())
            for (name, y), d in zip(watched.items(), by[1:], strict=False):
                for sub, product in _pieces(name, (d * y.detach()).flatten(2 if y.ndim > 2 else 1), subject.heads):
                    rows.setdefault(sub, []).append(product.sum(-1).reshape(h.shape[:2]))
            rows.setdefault("block", []).append((g * (trace.output - h).detach()).sum(-1))
            if in_fit:
                for total, d in zip(grads[part.start // size], by[1 + len(watched) :], strict=True):
                    total += d
    finally:
        for handle in handles:
            handle.remove()
    found.scores.append({name: text.sums(torch.cat(parts).detach().numpy()) for name, parts in rows.items()})
    flat = torch.stack([torch.cat([x.reshape(-1) for x in group]) for group in grads]).double()
    found.gradients.append((flat @ flat.T).numpy())
    return np.concatenate(below)


def _weighted(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _pieces(name: str, product: Tensor, heads: int) -> list[tuple[str, Tensor]]:
    """Heads one by one; and GPT-2 computes queries, keys and values at once: taken apart."""
    if name == "heads":
        return [(f"head {i}", x) for i, x in enumerate(product.chunk(heads, dim=-1))]
    if name.endswith("c_attn"):
        return [(f"{name}.{piece}", x) for piece, x in zip("qkv", product.chunk(3, dim=-1), strict=True)]
    return [(name, product)]
