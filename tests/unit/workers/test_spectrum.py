"""Random weights look random, whatever their distribution; trained ones do not."""

import pytest
import torch
from torch import Tensor

from peelbound.workers.spectrum import MOST_CHANNELS, departure, untouched

GAUSSIAN = torch.randn(96, 160, generator=torch.Generator().manual_seed(1))


def required(weight: Tensor) -> float:
    found = departure(weight)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["gaussian", "uniform", "ternary", "transposed", "scaled and shifted"])
def test_random_entries_of_any_distribution_look_random(kind: str) -> None:
    generator = torch.Generator().manual_seed(7)
    weight = {
        "gaussian": GAUSSIAN,
        "uniform": torch.rand(96, 160, generator=generator),
        "ternary": torch.randint(-1, 2, (96, 160), generator=generator).float(),
        "transposed": GAUSSIAN.T,
        "scaled and shifted": 0.001 * GAUSSIAN + 3,
    }[kind]
    assert required(weight) < 4


def test_a_direction_that_was_learnt_stands_out() -> None:
    learnt = torch.outer(torch.ones(96), torch.linspace(-1, 1, 160))
    assert required(GAUSSIAN + 0.3 * learnt) > 5


def test_a_flattened_spectrum_stands_out_as_well() -> None:
    rotation = torch.linalg.qr(GAUSSIAN[:, :96]).Q
    assert required(rotation) > 5


def test_what_was_learnt_shows_in_a_part_of_a_large_matrix() -> None:
    size = 2 * MOST_CHANNELS
    large = torch.randn(size, 64, generator=torch.Generator().manual_seed(3))
    assert required(large) < 4
    assert required(large + torch.outer(torch.ones(size), torch.linspace(-1, 1, 64))) > 5


def test_a_constant_matrix_says_nothing() -> None:
    assert departure(torch.zeros(8, 8)) is None
    assert departure(torch.ones(1, 8)) is None


def test_a_block_is_named_by_the_matrix_that_departs_most_and_its_norms() -> None:
    learnt = GAUSSIAN + torch.outer(torch.ones(96), torch.linspace(-1, 1, 160))
    block = {"q.weight": GAUSSIAN, "up.weight": learnt, "norm.weight": torch.ones(96), "up.bias": torch.arange(96.0)}
    found = untouched(block)
    assert (found.matrix, found.constant_norms) == ("up.weight", True)
    assert found.departure == departure(learnt)
    assert not untouched({**block, "norm.weight": torch.linspace(0.9, 1.1, 96)}).constant_norms


def test_experts_are_judged_by_the_first() -> None:
    assert departure(torch.stack([GAUSSIAN, GAUSSIAN.flip(0)])) == departure(GAUSSIAN)
