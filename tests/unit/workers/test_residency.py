"""States that are on the device in part, or cut, are the same states, and a solve does not see the difference."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from peelbound.workers import solver
from peelbound.workers.passes import Floats, middle
from peelbound.workers.recipes import CorrectedSettings, StateSettings
from peelbound.workers.residency import Held, whole
from tests.numerics import GRAIN, Subject, no_interruption

CPU = torch.device("cpu")
STATES = np.random.default_rng(0).standard_normal((7, 5, 3)).astype(np.float32)
CUTS = {"whole": STATES, "cut": [STATES[:2], STATES[2:3], STATES[3:]]}


@pytest.mark.parametrize("cut", list(CUTS))
@pytest.mark.parametrize("resident", [None, 0, 3, 7])
def test_rows_sequences_and_tokens_are_what_they_are(cut: str, resident: int | None) -> None:
    held = Held(CUTS[cut], CPU, resident)
    assert held.shape == STATES.shape
    assert held.resident == (resident in (None, 7))
    for part in (slice(0, 2), slice(1, 4), slice(5, 7)):
        np.testing.assert_array_equal(held.rows(part).numpy(), STATES[part])
    chosen = np.array([6, 0, 2, 2])
    np.testing.assert_array_equal(held.take(chosen).numpy(), STATES[chosen])
    tokens = np.array([34, 0, 9, 11])
    np.testing.assert_array_equal(held.tokens(tokens).numpy(), STATES.reshape(35, 3)[tokens])


@pytest.mark.parametrize("keep", [True, False])
def test_states_that_are_made_in_pieces_are_there_or_come(keep: bool) -> None:
    made = Held.of_tensors((torch.from_numpy(STATES[p]) for p in (slice(0, 4), slice(4, 7))), (7, 5, 3), CPU, keep)
    assert made.resident == keep
    np.testing.assert_array_equal(made.rows(slice(2, 6)).numpy(), STATES[2:6])
    np.testing.assert_array_equal(made.tokens(np.array([33, 1])).numpy(), STATES.reshape(35, 3)[[33, 1]])


def test_what_is_one_array_already_is_not_copied() -> None:
    assert whole([STATES]) is STATES
    np.testing.assert_array_equal(whole([STATES[:2], STATES[2:]]), STATES)


def cut(states: Floats) -> list[Floats]:
    return [states[:GRAIN], states[GRAIN:]]


Solve = Callable[[torch.nn.Module], object]


def weights(block: torch.nn.Module, solve: Solve) -> dict[str, torch.Tensor]:
    """What a solve makes of a block, which it must change."""
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    solve(block)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())
    return block.state_dict()


@pytest.mark.parametrize("resident", [1, 2])
def test_a_block_reference_has_the_same_bits_whatever_stays_on_the_device(llama: Subject, resident: int) -> None:
    settings = CorrectedSettings(rho=0.3, steps=3, learning_rate=3e-3, gradient_clip=5.0, outlier=10.0)
    documents = np.arange(len(llama.ids))[:, None] + np.zeros(llama.ids.shape, np.int64)
    states = llama.h(1), llama.h(2), llama.g(2)
    assert len(llama.ids) > 2 * GRAIN

    def solve(block: torch.nn.Module, resident: int | None, *states: object) -> solver.CorrectedSolution:
        return solver.solve_corrected(
            llama.skeleton, 2, block, *states, documents, settings, GRAIN, no_interruption, None, resident
        )  # type: ignore[arg-type] # arrays or their pieces

    found = []
    one = weights(llama.block(2), lambda block: found.append(solve(block, None, *states)))
    other = weights(llama.block(2), lambda block: found.append(solve(block, resident, *map(cut, states))))
    assert found[0] == found[1]
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("halves", [True, False])
def test_a_peeled_block_has_the_same_bits_whatever_stays_on_the_device(llama: Subject, halves: bool) -> None:
    settings = StateSettings(steps=4, learning_rate=1e-2, batch=2, schedule="linear", halves=halves)
    inside = middle(llama.skeleton, 2, llama.block(2), llama.h(1), GRAIN)
    assert inside is not None
    states = llama.h(1), llama.h(2), inside

    def solve(block: torch.nn.Module, resident: bool, *states: object) -> None:
        x, y, between = states
        solver.solve_state(
            llama.skeleton, 2, block, x, y, settings, 5, no_interruption, None, between, resident=resident
        )  # type: ignore[arg-type] # arrays or their pieces

    fresh = partial(llama.skeleton.fresh_block, 2, 5)
    one = weights(fresh(), lambda block: solve(block, True, *states))
    other = weights(fresh(), lambda block: solve(block, False, *map(cut, states)))
    assert all(torch.equal(one[name], other[name]) for name in one)
