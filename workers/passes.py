"""Passes over one block: forward, backward, and losses, one grain of sequences at a time.

Shapes: N sequences of a shard, T tokens, D hidden size, V vocabulary. States are float32 arrays [N, T, D]. Every pass
goes through its sequences in grains of fixed size, because the shape of a matrix product decides the order of its sums:
the same grain gives the same bits, whatever the number of workers or the size of a shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peelbound.workers.blame import CHECKPOINT, Blame
from peelbound.workers.device import Download, upload
from peelbound.workers.skeleton import Skeleton

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

HEAD_TOKENS = 128
"""Positions that go through the head at once. A constant: the shape of a product decides the order of its sums, and no
tokens × vocabulary tensor is ever larger, however long a sequence is."""


def grains(count: int, grain: int) -> Iterator[slice]:
    """Slices of `grain` sequences that cover `count`; the last may be shorter."""
    for start in range(0, count, grain):
        yield slice(start, min(start + grain, count))


def embed(skeleton: Skeleton, ids: Ints, grain: int) -> Floats:
    """h[0]: the embedding of token ids [N, T], as [N, T, D]."""
    states = Download((*ids.shape, skeleton.architecture.hidden_size), skeleton.device)
    with torch.no_grad():
        for part in grains(len(ids), grain):
            states.put(part, skeleton.embed(upload(ids[part], skeleton.device)))
    return states.array()


def forward(
    skeleton: Skeleton, index: int, block: nn.Module, states: Floats, grain: int, *, whose: Blame = CHECKPOINT
) -> Floats:
    """Push states [N, T, D] through block `index`.

    Args:
        skeleton: the model.
        index: 1..K.
        block: the trained block, or one in its place.
        states: h[index−1] of the trained network or of a competitor.
        grain: sequences a pass.
        whose: the network whose block or states they are.

    Raises:
        CheckpointError: the output is not finite; the slug is of `whose`. Names the block.
    """
    outputs = Download(states.shape, skeleton.device)
    with torch.no_grad():
        for part in grains(len(states), grain):
            outputs.put(part, skeleton.run(index, block, upload(states[part], skeleton.device)))
    if not outputs.finite():
        raise whose.error(f"The output of block {index}", index)
    return outputs.array()


def middle(skeleton: Skeleton, index: int, block: nn.Module, states: Floats, grain: int) -> Floats | None:
    """The residual stream inside block `index`, between attention and MLP: h[index−1] + what attention adds.

    Args:
        states: h[index−1], [N, T, D].

    Returns:
        [N, T, D]; None where the block's halves cannot be told apart.
    """
    if skeleton.sublayer_children(index, block) is None:
        return None
    found = Download(states.shape, skeleton.device)
    with torch.no_grad():
        for part in grains(len(states), grain):
            h = upload(states[part], skeleton.device)
            attention = skeleton.sublayers(index, block, h).attention
            assert attention is not None
            found.put(part, h + attention)
    return found.array()


def cosine(before: Floats, after: Floats) -> Floats:
    """Cosine similarity of each token's state before and after a block, [N, T]: 1 − its mean is block influence.

    Source: Men et al. 2024, ShortGPT (arXiv 2403.03853), equation 1.
    """
    similarity = np.empty(before.shape[:2], np.float32)
    for n, (h, after_h) in enumerate(zip(before, after, strict=True)):  # its copies are of one sequence at a time
        dot = np.einsum("td,td->t", h, after_h, dtype=np.float64)
        norms = np.linalg.norm(h, axis=-1).astype(np.float64) * np.linalg.norm(after_h, axis=-1)
        similarity[n] = dot / np.maximum(norms, 1e-30)
    return similarity


@dataclass(frozen=True)
class BackwardPass:
    """What one step of the walk back through a block yields for a shard."""

    gradient: Floats
    """∂ΣCE/∂h[l−1], [N, T, D]."""
    attention: Floats | None
    """⟨∂ΣCE/∂a, a⟩ per token, [N, T], for a = what attention adds to the residual stream; None if not recognised."""
    mlp: Floats | None
    """The same for the MLP."""
    block: Floats
    """⟨g[l], h[l] − h[l−1]⟩ per token, [N, T]."""


def backward(
    skeleton: Skeleton,
    index: int,
    block: nn.Module,
    states: Floats,
    gradient: Floats,
    grain: int,
    *,
    whose: Blame = CHECKPOINT,
) -> BackwardPass:
    """Carry g[l] = ∂ΣCE/∂h[l] back through block `index`, whose input is h[l−1].

    The products ⟨gradient, output⟩ are the derivatives of the loss by the strength s of a sub-layer at s = 1: the
    quantity behind head importance (Michel et al. 2019, arXiv 1905.10650), here the terms of a score test.

    Args:
        states: h[l−1], [N, T, D].
        gradient: g[l], [N, T, D].
        whose: the network that is walked back.

    Raises:
        CheckpointError: the gradient or a product is not finite; the slug is of `whose`. Names the block.
    """
    below, products = Download(states.shape, skeleton.device), Download(states.shape[:2], skeleton.device)
    sublayers: dict[str, Download] = {}
    for part in grains(len(states), grain):
        h = upload(states[part], skeleton.device).requires_grad_()
        g = upload(gradient[part], skeleton.device)
        trace = skeleton.sublayers(index, block, h)
        named = {name: t for name, t in (("attention", trace.attention), ("mlp", trace.mlp)) if t is not None}
        by_input, *by_sublayer = torch.autograd.grad(trace.output, [h, *named.values()], grad_outputs=g)
        below.put(part, by_input)
        products.put(part, (g * (trace.output - h).detach()).sum(-1))
        for (name, output), slope in zip(named.items(), by_sublayer, strict=True):
            rows = sublayers.setdefault(name, Download(states.shape[:2], skeleton.device))
            rows.put(part, (slope * output.detach()).sum(-1))
    if not all(rows.finite() for rows in (below, products, *sublayers.values())):
        raise whose.error(f"The gradient of the loss, carried back through block {index},", index)
    found = {name: rows.array() for name, rows in sublayers.items()}
    return BackwardPass(below.array(), found.get("attention"), found.get("mlp"), products.array())


def output_products(
    skeleton: Skeleton,
    index: int,
    block: nn.Module,
    before: Floats,
    after: Floats,
    gradient: Floats,
    grain: int,
    *,
    whose: Blame,
) -> Floats:
    """⟨g[l], f(h[l−1]) − h[l]⟩ per token, [N, T]: to first order, what `block` in place of block l does to ΣCE.

    Args:
        index: l.
        block: in place of block l.
        before: h[l−1], [N, T, D].
        after: h[l].
        gradient: g[l].
        whose: the network that has that block.
    """
    products = np.empty(before.shape[:2], np.float32)
    changed = forward(skeleton, index, block, before, grain, whose=whose)
    for n, (new, old, g) in enumerate(zip(changed, after, gradient, strict=True)):  # copies of one sequence at a time
        products[n] = np.einsum("td,td->t", new - old, g, dtype=np.float64)
    return products


@dataclass(frozen=True)
class Tokens:
    """Positions that predict a next token, flat: M of them, sequence by sequence."""

    states: Tensor
    """h[K], [M, D]."""
    targets: Tensor
    """The next tokens, [M]."""
    mask: Tensor
    """Whether their loss counts, [M]."""

    @classmethod
    def of(cls, states: Tensor, ids: Tensor, mask: Tensor) -> "Tokens":
        """Of sequences: h[K] [B, T, D], ids [B, T], mask [B, T−1]; differentiable in the states."""
        return cls(states[:, :-1].reshape(-1, states.shape[-1]), ids[:, 1:].reshape(-1), mask.reshape(-1))

    @classmethod
    def on(cls, device: torch.device, states: Floats, ids: Ints, mask: NDArray[np.bool_]) -> "Tokens":
        """The same of arrays, copied to a device."""
        return cls.of(upload(states, device), upload(ids, device), upload(mask, device))

    def chunks(self) -> Iterator["Tokens"]:
        """`HEAD_TOKENS` at a time; the last chunk may be shorter. Views."""
        for part in grains(len(self.targets), HEAD_TOKENS):
            yield Tokens(self.states[part], self.targets[part], self.mask[part])

    def losses(self, skeleton: Skeleton, head: dict[str, Tensor] | None = None) -> Tensor:
        """Cross-entropy of each, [M], zero where the mask is False; takes M × V logits, so ask for it by chunks."""
        logits = skeleton.logits(self.states[None], head)[0].float()
        return nn.functional.cross_entropy(logits, self.targets, reduction="none") * self.mask


def losses(
    skeleton: Skeleton,
    states: Floats,
    ids: Ints,
    mask: NDArray[np.bool_],
    grain: int,
    head: dict[str, Tensor] | None = None,
    *,
    whose: Blame = CHECKPOINT,
) -> Floats:
    """Cross-entropy in nats of every next token, [N, T−1]; zero where `mask` [N, T−1] is False.

    Args:
        states: h[K], [N, T, D].
        ids: [N, T].
        head: parameters in place of the model's own final norm and output projection.
        whose: the network whose states or head they are.

    Raises:
        CheckpointError: a loss is not finite; the slug is of `whose`.
    """
    found = Download(mask.shape, skeleton.device)
    with torch.no_grad():
        for part in grains(len(states), grain):
            tokens = Tokens.on(skeleton.device, states[part], ids[part], mask[part])
            rows = [chunk.losses(skeleton, head) for chunk in tokens.chunks()]
            found.put(part, torch.cat(rows).reshape(mask[part].shape))
    if not found.finite():
        raise whose.error("The loss")
    return found.array()


def loss_gradient(
    skeleton: Skeleton,
    states: Floats,
    ids: Ints,
    mask: NDArray[np.bool_],
    grain: int,
    *,
    whose: Blame = CHECKPOINT,
) -> tuple[Floats, Floats]:
    """Losses [N, T−1] and g[K] = ∂ΣCE/∂h[K], [N, T, D].

    Args:
        states: h[K], [N, T, D].
        ids: [N, T].
        whose: the network whose states they are.

    Raises:
        CheckpointError: one of them is not finite; the slug is of `whose`.
    """
    found, gradient = Download(mask.shape, skeleton.device), Download(states.shape, skeleton.device)
    for part in grains(len(states), grain):
        losses_of, slopes = [], []
        for chunk in Tokens.on(skeleton.device, states[part], ids[part], mask[part]).chunks():
            leaf = chunk.states.detach().requires_grad_()
            loss = Tokens(leaf, chunk.targets, chunk.mask).losses(skeleton)
            slopes.append(torch.autograd.grad(loss.sum(), leaf)[0])
            losses_of.append(loss.detach())
        found.put(part, torch.cat(losses_of).reshape(mask[part].shape))
        slope = torch.cat(slopes).reshape(*mask[part].shape, -1)
        gradient.put(part, nn.functional.pad(slope, (0, 0, 0, 1)))  # the last position predicts nothing
    for what, rows in (("The loss", found), ("The gradient of the loss at the last block's output", gradient)):
        if not rows.finite():
            raise whose.error(what)
    return found.array(), gradient.array()
