"""The planted damage of the positive control."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peelbound.workers.damage import noisy
from tests.numerics import Subject


def moved(subject: Subject, sigma: float, seed: int = 0) -> dict[str, Tensor]:
    return {name: t - subject.parts[1][name] for name, t in noisy(subject.parts[1], sigma, seed).items()}


def test_only_matrices_change_each_by_its_own_measure(trained: Subject) -> None:
    for name, change in moved(trained, 0.5).items():
        own = trained.parts[1][name]
        if own.ndim == 2:
            ratio = float(change.std() / own.std())
            assert 0.45 < ratio < 0.55, name
        else:
            assert not change.any(), name


def test_the_tensors_given_stay_as_they_are(trained: Subject) -> None:
    before = {name: t.clone() for name, t in trained.parts[1].items()}
    noisy(trained.parts[1], 1.0, 0)
    assert all(torch.equal(before[name], t) for name, t in trained.parts[1].items())


@settings(deadline=None)
@given(sigma=st.floats(0.01, 2), other=st.floats(0.01, 2))
def test_the_direction_is_the_same_for_every_sigma(trained: Subject, sigma: float, other: float) -> None:
    for one, two in zip(moved(trained, sigma).values(), moved(trained, other).values(), strict=True):
        assert torch.allclose(one / sigma, two / other, atol=1e-5)


def test_noise_depends_on_its_seed_alone(trained: Subject) -> None:
    one = noisy(trained.parts[1], 0.5, 3)
    backwards = noisy(dict(reversed(trained.parts[1].items())), 0.5, 3)
    assert all(torch.equal(one[name], backwards[name]) for name in one)
    other = noisy(trained.parts[1], 0.5, 4)
    assert not torch.equal(one["mlp.up_proj.weight"], other["mlp.up_proj.weight"])


def test_no_two_matrices_get_the_same_noise(trained: Subject) -> None:
    change = moved(trained, 0.5)
    gate, up = change["mlp.gate_proj.weight"].flatten(), change["mlp.up_proj.weight"].flatten()
    assert abs(float(torch.cosine_similarity(gate, up, dim=0))) < 0.2


def test_the_global_generator_is_left_alone(trained: Subject) -> None:
    before = torch.random.get_rng_state()
    noisy(trained.parts[1], 0.5, 0)
    assert torch.equal(before, torch.random.get_rng_state())
