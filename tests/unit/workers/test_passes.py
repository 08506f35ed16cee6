"""Passes over one block at a time, against the library's whole model and autograd through it."""

import copy
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from peelbound.workers import passes
from peelbound.workers.errors import CheckpointError
from peelbound.workers.passes import Floats
from tests.numerics import GRAIN, Subject, random_subject

FAMILIES = ("llama", "gpt2", "gemma2", "gpt_neox")
every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def subject_of(family: str) -> Subject:
    return random_subject(family)


def difference(got: Floats, want: Floats) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@settings(deadline=None)
@given(count=st.integers(0, 50), grain=st.integers(1, 12))
def test_grains_cover_every_sequence_once_and_only_the_last_is_shorter(count: int, grain: int) -> None:
    parts = list(passes.grains(count, grain))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop - part.start == grain for part in parts[:-1])


@every_family
def test_blocks_one_after_another_are_the_whole_model(family: str) -> None:
    subject = subject_of(family)
    states = passes.embed(subject.skeleton, subject.ids, GRAIN)
    assert difference(states, subject.h(0)) < 1e-6
    for index in range(1, subject.blocks + 1):
        states = passes.forward(subject.skeleton, index, subject.block(index), states, GRAIN)
        assert difference(states, subject.h(index)) < 1e-5
    losses = passes.losses(subject.skeleton, states, subject.ids, subject.mask, GRAIN)
    assert losses.dtype == np.float32
    assert difference(losses, subject.losses().numpy()) < 1e-5


@every_family
def test_the_walk_back_is_autograd_of_the_summed_loss(family: str) -> None:
    subject = subject_of(family)
    losses, gradient = passes.loss_gradient(subject.skeleton, subject.h(subject.blocks), subject.ids, subject.mask, 2)
    assert difference(losses, subject.losses().numpy()) < 1e-5
    assert difference(gradient, subject.g(subject.blocks)) < 1e-5
    for index in range(subject.blocks, 0, -1):
        step = passes.backward(
            subject.skeleton, index, subject.block(index), subject.h(index - 1), gradient, grain=GRAIN
        )
        gradient = step.gradient
        assert difference(gradient, subject.g(index - 1)) < 1e-4


# What attention and the MLP of a family add to the residual stream, by the name of the module that puts it out.
CONTRIBUTIONS = {
    "llama": {"attention": "self_attn", "mlp": "mlp"},
    "gpt2": {"attention": "attn", "mlp": "mlp"},
    "gemma2": {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"},
    "gpt_neox": {"attention": "attention", "mlp": "mlp"},
}


def _scaled(model: nn.Module, hooked: nn.Module, strength: Tensor, of_block: bool) -> Callable[[], None]:
    """Multiply what a module adds to the residual stream by a strength for each token, [N, T]."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        if of_block:
            entered = args[0] if args else kwargs["hidden_states"]
            changed = entered + strength[..., None] * (first - entered)
        else:
            changed = strength[..., None] * first
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hooked.register_forward_hook(hook, with_kwargs=True).remove


@pytest.mark.parametrize("kind", ["attention", "mlp", "block"])
@every_family
def test_scale_products_are_the_derivative_of_the_loss_by_a_sublayers_strength(family: str, kind: str) -> None:
    subject = subject_of(family)
    index = 2
    step = passes.backward(
        subject.skeleton, index, subject.block(index), subject.h(index - 1), subject.g(index), grain=GRAIN
    )
    products = {"attention": step.attention, "mlp": step.mlp, "block": step.block}[kind]
    assert products is not None
    # Another direction for each token: what belongs to one token must not be booked under another.
    direction = torch.randn(subject.ids.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    double = Subject(copy.deepcopy(subject.whole).double(), subject.ids, subject.mask)
    block = double.in_whole(index)
    hooked = block if kind == "block" else block.get_submodule(CONTRIBUTIONS[family][kind])
    # The library computes norms in float32 even here, so that a smaller step would drown in rounding.
    step_size, losses = 1e-2, []
    for sign in (1, -1):
        remove = _scaled(double.whole, hooked, 1 + sign * step_size * direction, kind == "block")
        losses.append(float(double.losses().sum()))
        remove()
    derivative = (losses[0] - losses[1]) / (2 * step_size)
    assert float((direction.numpy() * products).sum()) == pytest.approx(derivative, rel=2e-3, abs=2e-3)


def test_only_tokens_under_the_mask_have_a_loss_and_a_gradient(llama: Subject) -> None:
    last = llama.h(llama.blocks)
    everything = np.ones_like(llama.mask)
    whole = passes.losses(llama.skeleton, last, llama.ids, everything, GRAIN)
    losses, gradient = passes.loss_gradient(llama.skeleton, last, llama.ids, llama.mask, GRAIN)
    assert (losses == np.where(llama.mask, whole, 0)).all()
    assert (whole > 0).all()
    # h[K] at t is only used to predict t + 1, and the last token predicts nothing.
    felt = np.linalg.norm(gradient, axis=-1) > 0
    assert (felt[:, :-1] == llama.mask).all()
    assert not felt[:, -1].any()


def test_a_head_in_place_of_the_models_own_is_used(llama: Subject) -> None:
    last = llama.h(llama.blocks)
    flat = {name: torch.zeros_like(p) for name, p in llama.skeleton.head_parameters().items()}
    losses = passes.losses(llama.skeleton, last, llama.ids, llama.mask, GRAIN, flat)
    assert losses[llama.mask] == pytest.approx(np.log(96))


def test_results_are_the_same_to_the_last_bit_however_whole_grains_are_dealt_out() -> None:
    subject = random_subject("llama", sequences=7)
    skeleton, block = subject.skeleton, subject.block(2)
    h, g, ids, mask = subject.h(1), subject.g(2), subject.ids, subject.mask

    def everything(rows: slice) -> list[Floats]:
        back = passes.backward(skeleton, 2, block, h[rows], g[rows], GRAIN)
        losses, gradient = passes.loss_gradient(skeleton, h[rows], ids[rows], mask[rows], GRAIN)
        assert back.attention is not None
        assert back.mlp is not None
        return [
            passes.embed(skeleton, ids[rows], GRAIN),
            passes.forward(skeleton, 2, block, h[rows], GRAIN),
            passes.losses(skeleton, h[rows], ids[rows], mask[rows], GRAIN),
            losses,
            gradient,
            back.gradient,
            back.attention,
            back.mlp,
            back.block,
        ]

    whole = everything(slice(0, 7))
    for bounds in ((0, 4, 7), (0, 2, 4, 6, 7)):
        shards = [everything(slice(a, b)) for a, b in pairwise(bounds)]
        for at_once, in_parts in zip(whole, zip(*shards, strict=True), strict=True):
            assert np.array_equal(at_once, np.concatenate(in_parts))


def test_no_more_positions_go_through_the_head_at_once_than_the_constant_says(
    llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    logits = llama.skeleton.logits

    def watched(h: Tensor, *rest: Any) -> Tensor:
        asked.append(h.shape[0] * h.shape[1])
        return logits(h, *rest)

    h = llama.h(llama.blocks)
    whole = passes.losses(llama.skeleton, h, llama.ids, llama.mask, GRAIN)
    slope = passes.loss_gradient(llama.skeleton, h, llama.ids, llama.mask, GRAIN)[1]
    monkeypatch.setattr(llama.skeleton, "logits", watched)
    monkeypatch.setattr(passes, "HEAD_TOKENS", 5)
    assert np.allclose(passes.losses(llama.skeleton, h, llama.ids, llama.mask, GRAIN), whole, atol=1e-5)
    assert difference(passes.loss_gradient(llama.skeleton, h, llama.ids, llama.mask, GRAIN)[1], slope) < 1e-5
    assert max(asked) == 5
    assert sum(asked) == 2 * llama.mask.size


def test_a_block_that_overflows_is_named(llama: Subject) -> None:
    block = llama.block(2)
    with torch.no_grad():
        for p in block.parameters():
            p.mul_(1e30)
    with pytest.raises(CheckpointError) as caught:
        passes.forward(llama.skeleton, 2, block, llama.h(1), GRAIN)
    assert caught.value.slug == "checkpoint-not-finite"
    assert caught.value.extra["block"] == 2
    assert "block 2" in caught.value.detail


def test_a_gradient_that_overflows_names_the_block_and_never_becomes_a_result(llama: Subject) -> None:
    """The states are finite: only the way back shows it, and a solver that met it would blame its options."""
    with pytest.raises(CheckpointError, match="carried back through block 2, holds NaN or Inf") as caught:
        passes.backward(llama.skeleton, 2, llama.block(2), llama.h(1), np.full_like(llama.g(2), 3e38), GRAIN)
    assert (caught.value.slug, caught.value.extra["block"]) == ("checkpoint-not-finite", 2)


def test_a_finite_loss_with_an_infinite_gradient_is_refused(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    h = np.zeros_like(llama.h(3))
    head = torch.full((int(llama.ids.max()) + 1, h.shape[-1]), 1e30)
    head[::2] *= -1
    monkeypatch.setattr(llama.skeleton, "logits", lambda h, _: nn.functional.linear(h * 1e30, head))
    with pytest.raises(CheckpointError, match="The gradient of the loss") as caught:
        passes.loss_gradient(llama.skeleton, h, llama.ids, llama.mask, GRAIN)
    assert caught.value.slug == "checkpoint-not-finite"


def test_cosine_is_of_each_token_before_and_after(llama: Subject) -> None:
    before, after = llama.h(1), llama.h(2)
    want = torch.nn.functional.cosine_similarity(torch.from_numpy(before), torch.from_numpy(after), dim=-1)
    assert np.allclose(passes.cosine(before, after), want.numpy(), atol=1e-6)
    assert np.allclose(passes.cosine(before, 3 * before), 1)
    assert np.allclose(passes.cosine(before, -before), -1)
    assert not passes.cosine(before, np.zeros_like(before)).any()


def test_passes_leave_their_inputs_alone_and_take_read_only_ones(llama: Subject) -> None:
    h, g = llama.h(1).copy(), llama.g(2).copy()
    h.flags.writeable = g.flags.writeable = False  # as arrays come out of Ray's object store
    step = passes.backward(llama.skeleton, 2, llama.block(2), h, g, GRAIN)
    assert step.gradient.shape == h.shape
    assert np.array_equal(h, llama.h(1))
    assert np.array_equal(g, llama.g(2))
