"""The solver against autograd through the whole model, and against what its targets promise."""

import copy
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from peelbound.workers import passes, solver
from peelbound.workers.damage import noisy
from peelbound.workers.descent import OnStep
from peelbound.workers.errors import Cancelled, CheckpointError
from peelbound.workers.passes import Floats, Ints
from peelbound.workers.recipes import CorrectedSettings, StateSettings
from tests.numerics import GRAIN, Subject, no_interruption

CORRECTED = CorrectedSettings(rho=0.3, steps=12, learning_rate=3e-3, gradient_clip=5.0, outlier=10.0)
EXACT = replace(CORRECTED, gradient_clip=1e4, outlier=1e4)
"""Without the rules for heavy tails."""
STATE = StateSettings(steps=60, learning_rate=0.02, batch=4, schedule="linear", halves=True)


def halves(subject: Subject) -> Ints:
    """A document for each sequence."""
    return np.broadcast_to(np.arange(len(subject.ids))[:, None], subject.ids.shape).copy()


def solve(
    subject: Subject,
    index: int,
    block: nn.Module,
    settings: CorrectedSettings,
    *,
    gradient: Floats | None = None,
    documents: Ints | None = None,
    grain: int = GRAIN,
    on_step: OnStep = no_interruption,
) -> solver.CorrectedSolution:
    return solver.solve_corrected(
        subject.skeleton,
        index,
        block,
        subject.h(index - 1),
        passes.forward(subject.skeleton, index, subject.block(index), subject.h(index - 1), grain),
        subject.g(index) if gradient is None else gradient,
        halves(subject) if documents is None else documents,
        settings,
        grain,
        on_step,
    )


# The corrected target


class Enough(Exception):
    """Stops a solve where a test has seen what it came for."""


@pytest.mark.parametrize("index", [1, 2, 3])
def test_the_first_step_follows_the_true_gradient_of_the_loss(llama: Subject, index: int) -> None:
    block = llama.block(index)
    seen: list[Tensor] = []

    def take(step: int) -> None:
        if step == 1:
            seen.extend(p.grad.clone() for p in block.parameters() if p.grad is not None)
            raise Enough

    with pytest.raises(Enough):
        solve(llama, index, block, EXACT, on_step=take)

    whole = copy.deepcopy(llama.whole)
    own = Subject(whole, llama.ids, llama.mask)
    own.in_whole(index).requires_grad_(True)
    true = torch.autograd.grad(own.losses().sum(), list(own.in_whole(index).parameters()))
    assert len(seen) == len(true)
    for got, want in zip(seen, true, strict=True):
        assert float((got * llama.ids.size - want).norm() / want.norm()) < 1e-4


def objective(subject: Subject, index: int, block: nn.Module, settings: CorrectedSettings) -> float:
    """Mean over tokens of c⟨g, Δ⟩ + w‖Δ‖²/2."""
    linear, proximal, _ = solver.corrected_terms(subject.h(index - 1), subject.h(index), subject.g(index), settings)
    moved = passes.forward(subject.skeleton, index, block, subject.h(index - 1), GRAIN)
    unmoved = passes.forward(subject.skeleton, index, subject.block(index), subject.h(index - 1), GRAIN)
    delta = (moved - unmoved).astype(np.float64)
    first = linear * (subject.g(index) * delta).sum(-1)
    return float((first + 0.5 * proximal * np.square(delta).sum(-1)).mean())


@pytest.mark.parametrize("settings", [CORRECTED, EXACT], ids=["clipped", "exact"])
def test_a_corrected_solve_reduces_its_objective_and_foretells_a_gain(
    trained: Subject, settings: CorrectedSettings
) -> None:
    block = trained.block(2)
    found = solve(trained, 2, block, settings)
    assert objective(trained, 2, block, settings) < 0
    assert found.predicted_gain > 0
    assert not any(p.requires_grad or p.grad is not None for p in block.parameters())


def test_later_steps_follow_the_gradient_of_the_clipped_and_proximal_objective(trained: Subject) -> None:
    settings = replace(CORRECTED, rho=0.05, gradient_clip=1.0, learning_rate=1e-2)
    block, moved = trained.block(2), trained.block(2)
    seen: list[Tensor] = []

    def take(step: int) -> None:
        if step == 1:
            moved.load_state_dict(block.state_dict())
        if step == 2:
            seen.extend(p.grad.clone() for p in block.parameters() if p.grad is not None)
            raise Enough

    with pytest.raises(Enough):
        solve(trained, 2, block, settings, on_step=take)

    before, after, gradient = (torch.from_numpy(x) for x in (trained.h(1), trained.h(2), trained.g(2)))
    terms = solver.corrected_terms(trained.h(1), trained.h(2), trained.g(2), settings)
    linear, proximal = torch.from_numpy(terms[0]), torch.from_numpy(terms[1])
    assert 0 < float((linear < 1).float().mean()) < 1
    delta = trained.skeleton.run(2, moved.requires_grad_(True), before) - after
    value = (linear * (gradient * delta).sum(-1) + proximal * delta.square().sum(-1) / 2).mean()
    for got, want in zip(seen, torch.autograd.grad(value, list(moved.parameters())), strict=True):
        assert float((got - want).norm() / want.norm()) < 1e-3


def test_a_damaged_block_wins_back_loss_on_tokens_that_it_was_not_fitted_to(trained: Subject) -> None:
    damaged = trained.with_block(1, trained.skeleton.load_block(1, noisy(trained.parts[1], sigma=0.6, seed=0)))
    fit, check = (Subject(damaged.whole, damaged.ids[rows], damaged.mask[rows]) for rows in (slice(12), slice(12, 24)))
    block = fit.block(1)
    found = solve(fit, 1, block, CORRECTED)
    lost = check.loss() - Subject(trained.whole, check.ids, check.mask).loss()
    gain = check.loss() - check.with_block(1, block).loss()
    assert lost > 0.05
    assert gain > lost / 10
    assert found.predicted_gain > 0


def test_the_promised_gain_is_the_linear_term(trained: Subject) -> None:
    block = trained.block(1)
    found = solve(trained, 1, block, CORRECTED)
    before, after = (passes.forward(trained.skeleton, 1, b, trained.h(0), GRAIN) for b in (trained.block(1), block))
    want = -(trained.g(1) * (after - before)).sum(dtype=np.float64)
    assert found.predicted_gain == pytest.approx(want, rel=1e-4)


def test_a_tiny_step_gains_what_its_linear_term_promises(trained: Subject) -> None:
    block = trained.block(2)
    found = solve(trained, 2, block, replace(EXACT, learning_rate=1e-5, steps=2))
    gain = (trained.loss() - trained.with_block(2, block).loss()) * trained.mask.sum()
    assert found.predicted_gain > 0
    assert gain == pytest.approx(found.predicted_gain, rel=0.05)


def test_a_solve_is_the_same_to_the_last_bit_each_time(trained: Subject) -> None:
    blocks = [trained.block(2), trained.block(2)]
    found = [solve(trained, 2, block, CORRECTED) for block in blocks]
    assert found[0] == found[1]
    for one, other in zip(*(block.parameters() for block in blocks), strict=True):
        assert torch.equal(one, other)


def test_the_learning_rate_decays_linearly_from_its_peak(trained: Subject) -> None:
    """Adam's own steps are about as long as its rate where the gradient does not turn."""
    block, trail = trained.block(2), []

    def follow(_: int) -> None:
        trail.append(block.get_parameter("mlp.down_proj.weight").detach().clone())

    settings = replace(EXACT, learning_rate=1e-6, steps=4)
    solve(trained, 2, block, settings, on_step=follow)
    follow(4)
    lengths = [float((b - a).abs().median()) / 1e-6 for a, b in pairwise(trail)]
    assert lengths == pytest.approx([1, 0.75, 0.5, 0.25], rel=0.1)


def test_a_block_whose_output_the_loss_does_not_feel_stays_as_it_is(trained: Subject) -> None:
    block = trained.block(1)
    found = solve(trained, 1, block, CORRECTED, gradient=np.zeros_like(trained.g(1)))
    assert found == solver.CorrectedSolution(predicted_gain=0.0, gradient_agreement=0.0, top_token_share=0.0)
    for got, want in zip(block.parameters(), trained.block(1).parameters(), strict=True):
        assert torch.equal(got, want)


# Its coefficients


def random_states(seed: int = 0, sequences: int = 4, length: int = 11, width: int = 5) -> list[Floats]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(sequences, length, width)).astype(np.float32) for _ in range(3)]


def norms(array: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(array.astype(np.float64), axis=-1)
    return lengths


@settings(deadline=None)
@given(rho=st.floats(0.01, 10), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 50))
def test_eta_is_rho_times_the_ratio_of_medians(rho: float, scale: float, seed: int) -> None:
    before, after, gradient = random_states(seed)
    gradient *= scale
    linear, proximal, _ = solver.corrected_terms(before, after, gradient, replace(EXACT, rho=rho))
    eta = rho * np.median(norms(after - before)) / np.median(norms(gradient))
    assert (linear == 1).all()
    assert proximal == pytest.approx(1 / eta, rel=1e-4)


def test_medians_pass_over_tokens_that_the_loss_does_not_feel() -> None:
    before, after, gradient = random_states()
    gradient[:, 6:] = 0
    after[:, 6:] *= 1000
    eta = 0.3 * np.median(norms(after - before)[:, :6]) / np.median(norms(gradient)[:, :6])
    _, proximal, _ = solver.corrected_terms(before, after, gradient, EXACT)
    assert proximal == pytest.approx(1 / eta, rel=1e-4)


def test_a_long_gradient_is_cut_at_five_medians() -> None:
    before, after, gradient = random_states()
    gradient /= norms(gradient)[..., None]
    gradient[1, 2] *= 20
    gradient[3, 4] *= 4.9
    linear, _, _ = solver.corrected_terms(before, after, gradient, CORRECTED)
    assert linear[1, 2] == pytest.approx(0.25)
    linear[1, 2] = 1
    assert (linear == 1).all()


def test_a_massive_activation_has_no_linear_term_and_weighs_by_its_square() -> None:
    before, after, gradient = random_states()
    before[:], after = 0, after / norms(after)[..., None]
    after[2, 3] *= 40
    after[0, 0] *= 9.9
    linear, proximal, _ = solver.corrected_terms(before, after.astype(np.float32), gradient, CORRECTED)
    assert linear[2, 3] == 0
    assert linear[0, 0] > 0
    assert proximal[2, 3] == pytest.approx(proximal[0, 0] / 1600, rel=1e-4)
    assert proximal[0, 0] == pytest.approx(proximal[0, 1])


def test_a_block_that_adds_nothing_steps_by_the_scale_of_its_state() -> None:
    _, after, gradient = random_states()
    _, proximal, _ = solver.corrected_terms(after, after, gradient, EXACT)
    eta = EXACT.rho * np.median(norms(after)) / np.median(norms(gradient))
    assert proximal == pytest.approx(1 / eta, rel=1e-4)


def test_the_share_of_the_top_tokens_is_of_the_gradients_before_the_cut() -> None:
    before, after, gradient = random_states(sequences=10, length=30)
    gradient /= norms(gradient)[..., None]
    gradient[0, :3] *= 99  # 3 of 300 tokens are 1%
    _, _, share = solver.corrected_terms(before, after, gradient, CORRECTED)
    assert share == pytest.approx(297 / (297 + 297), rel=1e-5)


# Agreement of the gradients


def test_halves_that_are_the_same_agree_wholly(trained: Subject) -> None:
    twice = Subject(trained.whole, np.concatenate([trained.ids[:6]] * 2), np.concatenate([trained.mask[:6]] * 2))
    documents = np.repeat([0, 1], 6)[:, None] * np.ones_like(twice.ids[:1])
    assert solve(twice, 2, twice.block(2), EXACT, documents=documents).gradient_agreement == pytest.approx(1)


def test_halves_that_pull_apart_agree_by_minus_one_and_unrelated_ones_hardly(trained: Subject) -> None:
    twice = Subject(trained.whole, np.concatenate([trained.ids[:6]] * 2), np.concatenate([trained.mask[:6]] * 2))
    documents = np.repeat([0, 1], 6)[:, None] * np.ones_like(twice.ids[:1])
    sign = np.where(documents == 0, 1, -1)[..., None].astype(np.float32)
    opposed = solve(twice, 2, twice.block(2), EXACT, gradient=twice.g(2) * sign, documents=documents)
    assert opposed.gradient_agreement == pytest.approx(-1)
    noise = np.random.default_rng(0).normal(size=twice.g(2).shape).astype(np.float32)
    unrelated = solve(twice, 2, twice.block(2), EXACT, gradient=noise, documents=documents)
    assert abs(unrelated.gradient_agreement) < 0.3


def test_agreement_is_the_cosine_of_the_gradients_by_autograd(llama: Subject) -> None:
    """With a document for each sequence the halves share no token, and the gradients are those of two losses."""
    own = Subject(copy.deepcopy(llama.whole), llama.ids, llama.mask)
    own.in_whole(2).requires_grad_(True)
    gradients = []
    for parity in (0, 1):
        loss = own.losses()[parity::2].sum()
        grads = torch.autograd.grad(loss, list(own.in_whole(2).parameters()))
        gradients.append(torch.cat([g.flatten() for g in grads]))
    want = float(torch.cosine_similarity(gradients[0], gradients[1], dim=0))
    assert solve(llama, 2, llama.block(2), CORRECTED).gradient_agreement == pytest.approx(want, abs=1e-4)


def test_tokens_of_no_document_are_in_neither_half(trained: Subject) -> None:
    documents = halves(trained)
    gradient = trained.g(2).copy()
    documents[:, 5] = -1
    gradient[:, 5] = 0
    without = solve(trained, 2, trained.block(2), EXACT, gradient=gradient, documents=documents).gradient_agreement
    gradient[:, 5] = 100
    with_them = solve(trained, 2, trained.block(2), EXACT, gradient=gradient, documents=documents).gradient_agreement
    assert with_them == without


# Stopping and failing


def test_a_solve_can_be_stopped_before_any_step(trained: Subject) -> None:
    asked: list[int] = []

    def stop_at_three(step: int) -> None:
        asked.append(step)
        if step == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        solve(trained, 2, trained.block(2), CORRECTED, on_step=stop_at_three)
    assert asked == [0, 1, 2, 3]
    asked.clear()
    with pytest.raises(Cancelled):
        peel(trained, on_step=stop_at_three)
    assert asked == [0, 1, 2, 3]


@pytest.mark.parametrize(("steps", "learning_rate"), [(3, 1e30), (1, 1e15)], ids=["weights", "output"])
def test_a_corrected_solve_that_diverges_says_so(trained: Subject, steps: int, learning_rate: float) -> None:
    with pytest.raises(CheckpointError) as caught:
        solve(trained, 2, trained.block(2), replace(CORRECTED, steps=steps, learning_rate=learning_rate))
    assert caught.value.slug == "solver-diverged"
    assert caught.value.extra["block"] == 2


def test_a_state_solve_that_diverges_says_so(trained: Subject) -> None:
    with pytest.raises(CheckpointError) as caught:
        peel(trained, replace(STATE, learning_rate=1e30, steps=4))
    assert caught.value.slug == "solver-diverged"


# State targets


def peel(
    subject: Subject,
    settings: StateSettings = STATE,
    *,
    seed: int = 5,
    block: nn.Module | None = None,
    on_step: OnStep = no_interruption,
) -> nn.Module:
    """A fresh second block fitted from h[1] to h[2]."""
    block = block or subject.skeleton.fresh_block(2, seed)
    solver.solve_state(subject.skeleton, 2, block, subject.h(1), subject.h(2), settings, seed, on_step)
    return block


def error_of(subject: Subject, block: nn.Module) -> float:
    return solver.relative_error(passes.forward(subject.skeleton, 2, block, subject.h(1), GRAIN), subject.h(2))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_fresh_block_learns_its_target_state(trained: Subject, schedule: str) -> None:
    fresh = error_of(trained, trained.skeleton.fresh_block(2, 5))
    peeled = peel(trained, replace(STATE, schedule=schedule))
    assert error_of(trained, peeled) < fresh / 5
    assert not any(p.requires_grad or p.grad is not None for p in peeled.parameters())


def test_a_peeled_block_is_the_same_to_the_last_bit_and_depends_on_its_seed(trained: Subject) -> None:
    def weights(seed: int) -> Tensor:
        block = peel(trained, replace(STATE, steps=5), seed=seed, block=trained.skeleton.fresh_block(2, 0))
        return torch.cat([p.flatten() for p in block.parameters()])

    assert torch.equal(weights(5), weights(5))
    assert not torch.equal(weights(5), weights(6))  # the same start: the order of sequences differs


@pytest.mark.parametrize("batch", [5, 8, 100])
def test_every_sequence_is_drawn_equally_often(trained: Subject, batch: int) -> None:
    """A batch of 5 does not divide the 24 sequences: the rest of a round goes into the next."""
    block = trained.skeleton.fresh_block(2, 0)
    marks = {float(first): n for n, first in enumerate(trained.h(1).sum((1, 2)))}
    assert len(marks) == 24
    drawn: Counter[int] = Counter()

    def watch(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        h = args[0] if args else kwargs["hidden_states"]
        drawn.update(marks[float(x)] for x in h.numpy().sum((1, 2)))

    block.register_forward_pre_hook(watch, with_kwargs=True)
    peel(trained, replace(STATE, steps=24, batch=batch), block=block)
    per_sequence = min(batch, 24)
    assert drawn == dict.fromkeys(range(24), per_sequence)


def test_every_weight_of_a_block_is_solved(trained: Subject) -> None:
    fresh = trained.skeleton.fresh_block(2, 5)
    peeled = peel(trained, replace(STATE, steps=3))
    for (name, before), after in zip(fresh.named_parameters(), peeled.parameters(), strict=True):
        assert not torch.equal(before, after), name


@settings(deadline=None)
@given(seed=st.integers(0, 100), factor=st.floats(0.1, 10))
def test_relative_error_is_one_for_the_mean_token_and_a_ratio_of_squares(seed: int, factor: float) -> None:
    target = np.random.default_rng(seed).normal(3.0, 1.0, (3, 5, 4)).astype(np.float32)
    mean = np.broadcast_to(target.mean((0, 1)), target.shape)
    assert solver.relative_error(mean.astype(np.float32), target) == pytest.approx(1, rel=1e-4)
    assert solver.relative_error(target, target) == 0
    off = (target + factor * (mean - target)).astype(np.float32)
    assert solver.relative_error(off, target) == pytest.approx(factor**2, rel=1e-3)
