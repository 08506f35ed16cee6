"""A block's halves as peel problems of their own, in families that build their blocks in different ways."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from peelbound.workers import passes, solver
from peelbound.workers.descent import OnStep
from peelbound.workers.linear_maps import linear_maps
from peelbound.workers.quantisers.latents import Latents
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.quantisers.weight_class import WeightClass
from peelbound.workers.recipes import StateSettings
from tests.numerics import GRAIN, Subject, no_interruption, random_subject

SETTINGS = StateSettings(steps=40, learning_rate=1e-2, batch=1, schedule="linear", halves=True)
BARE = replace(SETTINGS, steps=1, learning_rate=1e-12)
"""Leaves weights where they are, but for what is solved in closed form."""
FAMILIES = ("llama", "gpt2", "opt", "gemma2", "gpt_neox", "phi", "mixtral")


def middle_of(subject: Subject, index: int) -> passes.Floats:
    found = passes.middle(subject.skeleton, index, subject.block(index), subject.h(index - 1), GRAIN)
    assert found is not None
    return found


def peel(
    subject: Subject,
    settings: StateSettings = SETTINGS,
    *,
    block: nn.Module | None = None,
    latents: Latents | None = None,
    on_step: OnStep = no_interruption,
) -> nn.Module:
    """A fresh second block fitted from h[1] to h[2] by way of the state between its halves."""
    block = block or subject.skeleton.fresh_block(2, 5)
    before, after = subject.h(1), subject.h(2)
    solver.solve_state(subject.skeleton, 2, block, before, after, settings, 5, on_step, latents, middle_of(subject, 2))
    return block


def error_of(subject: Subject, block: nn.Module) -> float:
    return solver.relative_error(passes.forward(subject.skeleton, 2, block, subject.h(1), GRAIN), subject.h(2))


def attention_error(subject: Subject, block: nn.Module) -> float:
    """Squared distance to the trained state between the halves."""
    found = passes.middle(subject.skeleton, 2, block, subject.h(1), GRAIN)
    assert found is not None
    return float(np.square(found - middle_of(subject, 2), dtype=np.float64).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_moves_and_the_block_comes_near_its_target(family: str) -> None:
    subject = random_subject(family)
    fresh = subject.skeleton.fresh_block(2, 5)
    kinds = [type(module) for module in fresh.modules()]
    peeled = peel(subject)
    assert error_of(subject, peeled) < 0.8 * error_of(subject, fresh)
    assert [type(module) for module in peeled.modules()] == kinds
    assert not any(p.requires_grad or p.grad is not None for p in peeled.parameters())
    for (name, before), after in zip(fresh.named_parameters(), peeled.parameters(), strict=True):
        assert not torch.equal(before, after), name


def test_the_state_between_the_halves_is_what_attention_leaves(llama: Subject) -> None:
    block = llama.in_whole(2)
    seen: list[Tensor] = []
    handle = block.get_submodule("post_attention_layernorm").register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    try:
        llama.losses()
    finally:
        handle.remove()
    np.testing.assert_allclose(middle_of(llama, 2), seen[0].detach().numpy(), atol=1e-5)


def test_attention_s_output_projection_is_a_least_squares_solution(trained: Subject) -> None:
    fresh, peeled = trained.skeleton.fresh_block(2, 5), peel(trained, BARE)
    name = "self_attn.o_proj.weight"
    for (at, before), after in zip(fresh.named_parameters(), peeled.parameters(), strict=True):
        assert torch.allclose(before, after, atol=1e-9) == (at != name), at
    best = attention_error(trained, peeled)
    assert best < 0.9 * attention_error(trained, fresh)
    # Only the ridge holds it off the optimum: no direction wins more than it costs.
    for seed in range(3):
        noise = 1e-2 * torch.randn(peeled.get_parameter(name).shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            peeled.get_parameter(name).add_(noise)
        assert attention_error(trained, peeled) > best
        with torch.no_grad():
            peeled.get_parameter(name).sub_(noise)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_projection_is_solved_where_its_output_is_the_contribution(family: str) -> None:
    """GPT-2 holds it transposed and adds a bias; in Gemma 2 a norm comes after it, so it is left to the steps."""
    subject = random_subject(family)
    fresh, peeled = subject.skeleton.fresh_block(2, 5), peel(subject, BARE)
    solved = [
        name
        for (name, before), after in zip(fresh.named_parameters(), peeled.parameters(), strict=True)
        if not torch.allclose(before, after, atol=1e-9)
    ]
    assert solved == {"gpt2": ["attn.c_proj.weight"], "gemma2": []}[family]
    assert (attention_error(subject, peeled) < attention_error(subject, fresh)) == bool(solved)


def test_a_block_of_a_weight_class_stays_in_it(trained: Subject) -> None:
    block = trained.skeleton.fresh_block(2, 5)
    weights = WeightClass(Scheme("ternary"), latent=True)
    maps = linear_maps(block)
    peeled = peel(trained, block=block, latents=Latents(block, weights.fresh(maps)))
    for linear in maps:
        assert len(peeled.get_parameter(linear.name).unique()) <= 3, linear.name
    assert error_of(trained, peeled) < 0.8 * error_of(trained, trained.skeleton.fresh_block(2, 5))


def test_tokens_of_the_mlp_are_drawn_equally_often_and_from_all_sequences(trained: Subject) -> None:
    block = trained.skeleton.fresh_block(2, 0)
    sequences, length = trained.ids.shape
    drawn: Counter[float] = Counter()
    mixed = []

    def watch(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        h = (args[0] if args else kwargs["hidden_states"]).numpy()
        sums = h.astype(np.float64).sum(-1).ravel()
        drawn.update(sums.tolist())
        own = {float(x): n for n, rows in enumerate(trained.h(1).astype(np.float64).sum(-1)) for x in rows}
        mixed.append(len({own[float(x)] for x in sums}) > 1)

    handle = block.register_forward_pre_hook(watch, with_kwargs=True)
    steps: list[int] = []
    peel(trained, replace(SETTINGS, steps=sequences), block=block, on_step=steps.append)
    handle.remove()
    assert steps == list(range(2 * sequences))
    second = mixed[-sequences:]
    assert all(second)
    assert len(second) * length == trained.ids.size


def test_without_the_state_between_or_by_choice_the_block_is_solved_whole(trained: Subject) -> None:
    def weights(settings: StateSettings, *, middle: bool) -> Tensor:
        block = trained.skeleton.fresh_block(2, 0)
        between = middle_of(trained, 2) if middle else None
        solver.solve_state(
            trained.skeleton, 2, block, trained.h(1), trained.h(2), settings, 0, no_interruption, middle=between
        )
        return torch.cat([p.flatten() for p in block.parameters()])

    short = replace(SETTINGS, steps=3)
    whole = weights(replace(short, halves=False), middle=True)
    assert torch.equal(weights(short, middle=False), whole)
    assert not torch.equal(weights(short, middle=True), whole)


def test_families_whose_halves_cannot_be_told_apart_have_no_state_between() -> None:
    subject = random_subject("granite")
    assert passes.middle(subject.skeleton, 2, subject.block(2), subject.h(1), GRAIN) is None
