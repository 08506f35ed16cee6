"""Refits of norm and output projection."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from peelbound.workers import head, passes
from peelbound.workers.descent import OnStep
from peelbound.workers.errors import Cancelled
from peelbound.workers.recipes import HeadSettings
from tests.numerics import GRAIN, Subject, no_interruption, random_subject

SETTINGS = HeadSettings(steps=12, learning_rate=1e-2, batch=4, evaluations=4)


def data(subject: Subject, rows: slice) -> head.HeadData:
    return head.HeadData(subject.h(subject.blocks)[rows], subject.ids[rows], subject.mask[rows])


def refit(
    subject: Subject, settings: HeadSettings = SETTINGS, *, seed: int = 0, on_step: OnStep = no_interruption
) -> head.HeadFit:
    """Fit on the first three quarters of the sequences, select on the last."""
    cut = 3 * len(subject.ids) // 4
    fit, select = data(subject, slice(cut)), data(subject, slice(cut, None))
    return head.refit(subject.skeleton, fit, select, settings, seed, GRAIN, on_step)


@pytest.fixture(scope="module")
def untrained() -> Subject:
    """A random model whose head knows nothing, on text that can be learned."""
    return random_subject("llama", sequences=16)


def test_a_refit_lowers_the_loss_that_it_fits(untrained: Subject) -> None:
    found = refit(untrained)
    assert found.chosen_step in (3, 6, 9, 12)
    assert untrained.skeleton.untied_parameters() == 0
    assert found.fit.sum() < 0.99 * found.fit_unchanged.sum()


def test_the_unchanged_head_is_a_candidate_and_wins_over_a_hopeless_one(trained: Subject) -> None:
    found = refit(trained, replace(SETTINGS, learning_rate=10.0))
    assert found.chosen_step == 0
    assert np.array_equal(found.fit, found.fit_unchanged)
    for name, own in trained.skeleton.head_parameters().items():
        assert torch.equal(found.parameters[name], own)


def test_no_steps_leave_the_head_alone(trained: Subject) -> None:
    found = refit(trained, replace(SETTINGS, steps=0))
    assert found.chosen_step == 0
    assert np.array_equal(found.fit, found.fit_unchanged)


@pytest.mark.parametrize("learning_rate", [1e-2, 10.0], ids=["refitted", "unchanged"])
def test_its_losses_are_those_of_the_chosen_head_over_all_tokens(trained: Subject, learning_rate: float) -> None:
    found = refit(trained, replace(SETTINGS, learning_rate=learning_rate))
    cut = 3 * len(trained.ids) // 4

    def losses(rows: slice, parameters: dict[str, torch.Tensor] | None) -> passes.Floats:
        d = data(trained, rows)
        return passes.losses(trained.skeleton, d.states, d.ids, d.mask, GRAIN, parameters)

    assert np.array_equal(found.fit, losses(slice(cut), found.parameters))
    assert np.array_equal(found.select, losses(slice(cut, None), found.parameters))
    assert np.array_equal(found.fit_unchanged, losses(slice(cut), None))
    assert found.select.shape == trained.mask[cut:].shape


def test_the_step_is_the_one_where_select_is_best(untrained: Subject) -> None:
    """Select shares nothing with fit here, so that the longer a head is fitted the worse it becomes."""
    looks = HeadSettings(steps=20, learning_rate=5e-2, batch=16, evaluations=20)
    found = refit(untrained, looks)
    assert found.chosen_step < 8
    shorter = [refit(untrained, replace(looks, evaluations=n)) for n in (1, 2, 5)]
    assert all(found.select.sum() <= other.select.sum() for other in shorter)


def test_select_does_not_enter_the_fit(untrained: Subject) -> None:
    """Which step is chosen may depend on select; the steps themselves may not."""
    last_only = replace(SETTINGS, evaluations=1)
    cut = 12
    fit = data(untrained, slice(cut))
    found = [
        head.refit(untrained.skeleton, fit, select, last_only, 0, GRAIN, no_interruption)
        for select in (fit, data(untrained, slice(3)))
    ]
    assert [f.chosen_step for f in found] == [12, 12]
    for name, parameter in found[0].parameters.items():
        assert torch.equal(parameter, found[1].parameters[name])


def test_the_learning_rate_decays_linearly_from_its_peak(untrained: Subject) -> None:
    """Four of Adam's steps, each as long as its rate where the gradient does not turn: 1 + 3/4 + 1/2 + 1/4."""
    every = data(untrained, slice(None))
    gentle = HeadSettings(steps=4, learning_rate=1e-4, batch=16, evaluations=1)
    found = head.refit(untrained.skeleton, every, every, gentle, 0, GRAIN, no_interruption)
    assert found.chosen_step == 4
    own = untrained.skeleton.head_parameters()
    lengths = torch.cat([(found.parameters[name] - p).abs().flatten() for name, p in own.items()])
    assert float(lengths.median()) == pytest.approx(2.5e-4, rel=0.05)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_tied_embedding_does_not_move(family: str) -> None:
    subject = random_subject(family, sequences=16)
    assert subject.architecture.tied_embeddings
    assert subject.skeleton.untied_parameters() == 96 * 32
    before = passes.embed(subject.skeleton, subject.ids, GRAIN)
    unchanged = subject.skeleton.head_parameters()
    every = data(subject, slice(None))
    found = head.refit(subject.skeleton, every, every, SETTINGS, 0, GRAIN, no_interruption)
    assert found.chosen_step > 0
    assert np.array_equal(before, passes.embed(subject.skeleton, subject.ids, GRAIN))
    for name, own in subject.skeleton.head_parameters().items():
        assert torch.equal(own, unchanged[name])
        assert not torch.equal(found.parameters[name], own), name


def test_a_refit_is_the_same_to_the_last_bit_and_depends_on_its_seed(trained: Subject) -> None:
    one, again, other = (refit(trained, seed=seed) for seed in (1, 1, 2))
    for name, parameter in one.parameters.items():
        assert torch.equal(parameter, again.parameters[name])
    assert any(not torch.equal(p, other.parameters[name]) for name, p in one.parameters.items())


def test_a_refit_can_be_stopped(trained: Subject) -> None:
    def stop(step: int) -> None:
        if step == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        refit(trained, on_step=stop)


def test_tokens_without_a_loss_do_not_enter_the_fit(untrained: Subject) -> None:
    """Whatever stands under the mask, the head comes out the same."""
    mask = untrained.mask.copy()
    mask[:, 10:] = False
    ids = untrained.ids.copy()
    ids[:, 12:] = 5
    states = untrained.h(untrained.blocks).copy()
    states[:, 12:] = 1.0
    honest = head.HeadData(untrained.h(untrained.blocks), untrained.ids, mask)
    other = head.HeadData(states, ids, mask)
    found = [head.refit(untrained.skeleton, d, d, SETTINGS, 0, GRAIN, no_interruption) for d in (honest, other)]
    assert found[0].chosen_step > 0
    for name, parameter in found[0].parameters.items():
        assert torch.equal(parameter, found[1].parameters[name])
