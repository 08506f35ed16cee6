"""Choices on select and comparisons on check."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peelbound.service.controller.block_measurements import ZERO_STEP, Choice, choose
from peelbound.service.statistics import PairedSums
from tests.measured_fixture import Synthetic

TOKENS = np.array([10.0, 30.0])


def chosen_by(gains: dict[tuple[int, float], float]) -> Choice:
    """The choice between candidates that gain so much per token, by loss sums of two documents."""
    select = {"trained": np.array([30.0, 90.0])}
    names = {at: f"{at}" for at in gains}
    select |= {names[at]: select["trained"] - gain * TOKENS for at, gain in gains.items()}
    return choose(select, TOKENS, names)


def test_the_largest_gain_on_select_is_chosen_block_by_block() -> None:
    choice = chosen_by({(1, 0.1): 0.25, (1, 0.5): 0.5, (2, 0.1): 0.25, (2, 0.5): -1.0})
    assert choice.chosen == {1: 0.5, 2: 0.1}
    assert choice.gains == {(1, 0.1): 0.25, (1, 0.5): 0.5, (2, 0.1): 0.25, (2, 0.5): -1.0}


def test_no_step_is_chosen_where_none_is_better_than_none() -> None:
    choice = chosen_by({(1, 0.1): -0.25, (1, 0.5): -0.5, (2, 0.1): 0.0, (2, 0.5): 0.0})
    assert choice.chosen == {1: ZERO_STEP, 2: ZERO_STEP}
    assert choice.best == {1: 0.1, 2: 0.1}  # what its uncertainty is taken from


def test_of_equal_gains_the_shorter_step_is_chosen() -> None:
    assert chosen_by({(1, 0.5): 0.25, (1, 0.3): 0.25, (1, 0.1): 0.125}).chosen == {1: 0.3}


@settings(deadline=None)
@given(st.dictionaries(st.tuples(st.integers(1, 4), st.sampled_from([0.1, 0.3, 1.0])), st.integers(-3, 3), min_size=1))
def test_nothing_beats_the_choice(steps: dict[tuple[int, float], int]) -> None:
    gains = {at: n / 4 for at, n in steps.items()}
    choice = chosen_by(gains)
    assert list(choice.chosen) == sorted({block for block, _ in gains})
    for block, rho in choice.chosen.items():
        candidates = {0.0: 0.0} | {r: g for (b, r), g in gains.items() if b == block}
        assert candidates[rho] == max(candidates.values())
        assert rho == min(r for r, g in candidates.items() if g == candidates[rho])


GAINS = {(1, 0.15): 0.02, (1, 0.5): 0.01, (2, 0.15): -0.01, (2, 0.5): -0.02, (3, 0.15): 0.005, (3, 0.5): 0.03}


def test_gains_on_check_are_those_of_the_chosen_steps_and_zero_for_none() -> None:
    # What select promised does not hold on check: the choice must not be made again there.
    on_check = {(1, 0.15): -0.04, (3, 0.5): 0.001}
    blocks = Synthetic().blocks(GAINS, gains_on_check=on_check)
    assert blocks.choice.chosen == {1: 0.15, 2: 0.0, 3: 0.5}
    gains = blocks.gains()
    assert gains.estimates() == pytest.approx([-0.04, 0.0, 0.001])
    assert not gains.difference_sums[:, 1].any()
    assert gains.documents == 40


def test_comparisons_on_select_and_of_skipped_blocks_have_their_own_documents_and_signs() -> None:
    blocks = Synthetic().blocks(GAINS, extra={"matrix 0 2": 0.07})
    on_select = blocks.select_gains()
    assert on_select.estimates() == pytest.approx([0.02, -0.01, 0.03])
    assert on_select.documents == 12
    skips = blocks.skip_costs()
    assert skips.estimates() == pytest.approx([0.1, 0.2, 0.3])
    assert skips.documents == 40
    assert blocks.select_increase("matrix 0 2").estimates() == pytest.approx([0.07])
    assert isinstance(skips, PairedSums)


def test_candidates_are_told_with_what_their_linear_term_promised_per_token() -> None:
    draw = Synthetic()
    found = draw.blocks(GAINS).candidates(3)
    assert [c.rho for c in found] == [0.0, 0.15, 0.5]
    assert [c.select_gain for c in found] == pytest.approx([0.0, 0.005, 0.03])
    tokens = draw.tokens["fit"].sum()
    assert [c.predicted_gain for c in found] == pytest.approx([0.0, 300.15 / tokens, 300.5 / tokens])


def test_what_the_solves_told_is_looked_up_by_block() -> None:
    blocks = Synthetic().blocks(GAINS)
    blocks.solutions[2, 0.15]["gradient_agreement"] = 0.9
    assert [blocks.agreement(block) for block in blocks.blocks] == [0.5, 0.9, 0.5]
    assert blocks.top_token_share() == pytest.approx(0.06)
    assert list(blocks.blocks) == [1, 2, 3]


def test_a_scale_score_is_per_token_of_fit_and_check_and_none_where_it_was_not_told() -> None:
    blocks = Synthetic().blocks(GAINS, scores=0.2)
    found = blocks.scale("mlp", 2)
    assert found is not None
    assert found.mean == pytest.approx(0.2, abs=0.01)
    assert found.z > 20
    blocks.scores["mlp"][1] = None
    assert blocks.scale("mlp", 2) is None
    assert blocks.scale("mlp", 3) is not None


def test_the_trained_loss_is_a_ratio_of_sums() -> None:
    assert Synthetic().blocks(GAINS, trained=2.5).trained.loss("fit") == pytest.approx(2.5)
