"""The solver: re-solves one block against a target, from data of that block alone.

Two kinds of target. A *state target* asks the block to reproduce a trained state: minimise mean ‖f(x;θ) − h[m]‖²
(arXiv 2410.10984, 2605.02853). A *corrected target* asks it to move the trained output downhill: with g = ∂ΣCE/∂h[l],
minimise mean over tokens of ⟨g, Δ⟩ + ‖Δ‖²/(2η), Δ = f(h[l−1];θ) − h[l]. At Δ = 0 its gradient in θ is the true ∂ΣCE/∂θ
of the block, so it is one-block fine-tuning, linearised at the block's output and held near by the proximal term. Both
need neither the blocks before nor those after.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from peelbound.workers.descent import OnStep, descend
from peelbound.workers.device import upload
from peelbound.workers.errors import CheckpointError
from peelbound.workers.halves import solve_halves
from peelbound.workers.passes import Floats, Ints, grains
from peelbound.workers.quantisers.latents import Latents
from peelbound.workers.recipes import CorrectedSettings, StateSettings
from peelbound.workers.residency import Held, Pieces, pieces_of
from peelbound.workers.skeleton import Skeleton


@dataclass(frozen=True)
class CorrectedSolution:
    """Measurements of a corrected solve; the weights are in the block itself."""

    predicted_gain: float
    """−Σ⟨g, Δ⟩ over fit: what the linear term promises, in nats, for all tokens together."""
    gradient_agreement: float
    """Cosine similarity of ∂ΣCE/∂θ between two halves of the fit documents."""
    top_token_share: float
    """Share of Σ‖g‖ over fit tokens that the top 1% own, before clipping."""


def _frozen(block: nn.Module) -> None:
    for p in block.parameters():
        p.requires_grad_(False)
        p.grad = None


def _norms(states: Pieces) -> Floats:
    """‖·‖ of every token, [N, T]; what it takes in passing is of one sequence."""
    return np.stack([np.linalg.norm(sequence, axis=-1) for piece in pieces_of(states) for sequence in piece])


def _distances(before: Pieces, after: Pieces) -> Floats:
    """‖after − before‖ of every token, [N, T]; both are cut alike."""
    pairs = zip(pieces_of(before), pieces_of(after), strict=True)
    return np.stack([np.linalg.norm(b - a, axis=-1) for one, other in pairs for a, b in zip(one, other, strict=True)])


def corrected_terms(
    before: Pieces, after: Pieces, gradient: Pieces, settings: CorrectedSettings
) -> tuple[Floats, Floats, float]:
    """Linear and proximal coefficients of the corrected target, per token.

    Medians are over the fit tokens whose gradient is not zero, in plan order.

    Args:
        before: h[l−1], [N, T, D].
        after: h[l], [N, T, D].
        gradient: g[l], [N, T, D].

    Returns:
        Coefficients c [N, T] of g in the linear term (1, less where clipped, 0 for outliers), weights w [N, T] of the
        proximal term w‖Δ‖²/2 (1/η, less for outliers), and the share of Σ‖g‖ that the top 1% of tokens own.
    """
    size = _norms(gradient)
    live = size > 0
    if not live.any():
        return np.zeros_like(size), np.ones_like(size), 0.0
    median_gradient = float(np.median(size[live]))
    median_update = float(np.median(_distances(before, after)[live]))
    norm = _norms(after)
    relative = norm / max(float(np.median(norm[live])), 1e-30)
    # A block that adds nothing has no scale of its own to step by: take the state's.
    scale = median_update if median_update > 1e-6 * float(np.median(norm[live])) else float(np.median(norm[live]))
    eta = settings.rho * scale / median_gradient
    clip = np.minimum(1.0, settings.gradient_clip * median_gradient / np.maximum(size, 1e-30))
    massive = relative > settings.outlier
    linear = np.where(massive, 0.0, clip).astype(np.float32)
    proximal = (np.where(massive, 1.0 / np.square(np.maximum(relative, 1.0)), 1.0) / eta).astype(np.float32)
    ranked = np.sort(size[live])[::-1]
    top = max(1, math.ceil(0.01 * len(ranked)))
    return linear, proximal, float(ranked[:top].sum(dtype=np.float64) / ranked.sum(dtype=np.float64))


def solve_corrected(
    skeleton: Skeleton,
    index: int,
    block: nn.Module,
    before: Pieces,
    after: Pieces,
    gradient: Pieces,
    documents: Ints,
    settings: CorrectedSettings,
    grain: int,
    on_step: OnStep,
    latents: Latents | None = None,
    resident: int | None = None,
) -> CorrectedSolution:
    """Move the trained block against its corrected target, in place: full-batch Adam with linear decay.

    Args:
        block: the trained block `index`; its parameters are changed.
        before: h[l−1] on fit, [N, T, D].
        after: h[l] on fit, [N, T, D].
        gradient: g[l] on fit, [N, T, D].
        documents: document of each token, [N, T]; the two halves of the gradient agreement are its parity.
        latents: what is moved in the block's place, where its weight class restricts it; its parameters by default.
        resident: how many grains of states are on the device at once, the one in hand among them; None: all. The bits
            of the solution do not depend on it.
    """
    latents = latents or Latents(block)
    linear, proximal, top_share = corrected_terms(before, after, gradient, settings)
    # What is carried to the device once makes nothing in the loop wait for the host, nor the host for it.
    count = len(linear)
    kept = None if resident is None or resident * grain >= count else (resident - 1) * grain
    x, y, g = (Held(states, skeleton.device, kept) for states in (before, after, gradient))
    near = upload(proximal, skeleton.device)

    def accumulate(weights: Floats) -> None:
        """Add the objective's gradient into `.grad`, grain by grain, its linear term weighted token by token."""
        weight = upload(weights, skeleton.device)[..., None]
        for part in grains(count, grain):
            delta = skeleton.run(index, block, x.rows(part)) - y.rows(part)
            first = (g.rows(part) * weight[part] * delta).sum()
            penalty = 0.5 * (near[part] * delta.square().sum(-1)).sum()
            ((first + penalty) / linear.size).backward()

    agreement = _gradient_agreement(list(block.parameters()), accumulate, documents)
    by_rate: dict[float, list[nn.Parameter]] = {}
    for parameter, grid_step in zip(latents.parameters, latents.steps, strict=True):
        by_rate.setdefault(_peak_rate(settings, grid_step), []).append(parameter)
    optimiser = torch.optim.Adam([{"params": of, "lr": rate} for rate, of in by_rate.items()], betas=(0.9, 0.95))
    for step in range(settings.steps):
        on_step(step)
        for group, rate in zip(optimiser.param_groups, by_rate, strict=True):
            group["lr"] = rate * (1 - step / settings.steps)
        latents.zero_grad()
        accumulate(linear)
        latents.collect()
        optimiser.step()
        latents.place()
    with torch.no_grad():
        pieces = [(g.rows(p) * (skeleton.run(index, block, x.rows(p)) - y.rows(p))).sum() for p in grains(count, grain)]
        moved = float(torch.stack(pieces).double().sum())
    _frozen(block)
    _require_finite(block, index, moved)
    return CorrectedSolution(-moved, agreement, top_share)


def _peak_rate(settings: CorrectedSettings, grid_step: float | None) -> float:
    """Of a parameter; on a grid the rates of all steps, which fall linearly to zero, sum to its travel."""
    if grid_step is None:
        return settings.learning_rate
    return settings.code_travel * grid_step * 2 / (settings.steps + 1)


def _gradient_agreement(parameters: list[nn.Parameter], accumulate: Callable[[Floats], None], documents: Ints) -> float:
    """Cosine similarity of the parameter gradients at Δ = 0, where they are the true ones, on halves of documents.

    Tokens of no document (−1) are in neither half.
    """
    halves: list[list[Tensor]] = []
    for parity in (0, 1):
        accumulate(((documents >= 0) & (documents % 2 == parity)).astype(np.float32))
        halves.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])
        for p in parameters:
            p.grad = None
    dot, first, second = (
        float(torch.stack([(a.double() * b.double()).sum() for a, b in zip(x, y, strict=True)]).sum())
        for x, y in ((halves[0], halves[1]), (halves[0], halves[0]), (halves[1], halves[1]))
    )
    return dot / math.sqrt(first * second) if first > 0 and second > 0 else 0.0


def solve_state(
    skeleton: Skeleton,
    index: int,
    block: nn.Module,
    inputs: Pieces,
    target: Pieces,
    settings: StateSettings,
    seed: int,
    on_step: OnStep,
    latents: Latents | None = None,
    middle: Pieces | None = None,
    *,
    resident: bool = True,
) -> None:
    """Fit a fresh block to a trained state, in place: minimise mean ‖f(x;θ) − target‖².

    Args:
        block: a fresh block `index`.
        inputs: its input on fit, [N, T, D].
        target: h[m] on fit, [N, T, D].
        seed: of the order in which sequences and tokens are drawn.
        latents: what is moved in the block's place, where its weight class restricts it; its parameters by default.
        middle: where the target is h[index]: the trained state inside the block, between attention and MLP, on fit,
            [N, T, D]. With it, and where the settings say so, the halves are solved one after the other.
        resident: whether all states stay on the device; else each batch is carried there. The bits of the solution do
            not depend on it.
    """
    latents = latents or Latents(block)
    draw = np.random.Generator(np.random.Philox(seed))
    kept = None if resident else 0
    x, y = (Held(states, skeleton.device, kept) for states in (inputs, target))
    children = skeleton.sublayer_children(index, block) if settings.halves and middle is not None else None
    if children is not None and children.shaped and middle is not None:
        half = Held(middle, skeleton.device, kept)
        solve_halves(skeleton, index, block, children, x, half, y, settings, draw, on_step, latents)
    else:
        scale = 1.0 / max(_mean_square(target), 1e-30)  # losses of all targets are alike

        def loss(chosen: Ints) -> Tensor:
            return nn.functional.mse_loss(skeleton.run(index, block, x.take(chosen)), y.take(chosen)) * scale

        descend(latents, latents.parameters, loss, len(x), settings.batch, settings, draw, on_step)
    _frozen(block)
    _require_finite(block, index)


def _sequences(states: Pieces) -> Iterator[Floats]:
    """[T, D] each: sums over them do not depend on how states are cut, and take no copy of all."""
    for piece in pieces_of(states):
        yield from piece


def _mean_square(states: Pieces) -> float:
    return float(np.mean([np.mean(np.square(sequence), dtype=np.float64) for sequence in _sequences(states)]))


def relative_error(output: Pieces, target: Pieces) -> float:
    """‖output − target‖² / ‖target − mean token‖², over all tokens; 1 is what a constant would reach."""
    centre = np.mean([sequence.mean(axis=0, dtype=np.float64) for sequence in _sequences(target)], axis=0)
    middle = centre.astype(np.float32)
    spread = sum(float(np.square(t - middle, dtype=np.float64).sum()) for t in _sequences(target))
    pairs = zip(_sequences(output), _sequences(target), strict=True)
    return sum(float(np.square(o - t, dtype=np.float64).sum()) for o, t in pairs) / max(spread, 1e-30)


def _require_finite(block: nn.Module, index: int, moved: float = 0.0) -> None:
    """Refuse weights that are not finite, or that moved the output by what is not."""
    if not (math.isfinite(moved) and bool(torch.stack([torch.isfinite(p).all() for p in block.parameters()]).all())):
        raise CheckpointError(
            f"Re-solving block {index} diverged: its weights or its output became NaN or Inf.",
            slug="solver-diverged",
            remedy="Lower options.block_learning_rate or options.network_learning_rate.",
            pointer="/options",
            block=index,
        )
