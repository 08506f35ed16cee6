"""Intervals must cover as they claim, on documents as uneven and heavy-tailed as real ones."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from peelbound.service.statistics import (
    PairedSums,
    documents_needed,
    error_on,
    excess_gain_intervals,
    paired_intervals,
    score,
    smallest_visible_effect,
)


def null_draw(rng: np.random.Generator, documents: int, columns: int) -> PairedSums:
    """True differences of 0: documents of log-normal length, heavy tails, columns correlated and of unequal scale."""
    tokens = np.maximum(1, rng.lognormal(4, 0.8, documents)).astype(int)
    noise = 0.7 * rng.standard_t(4, (documents, 1)) + rng.standard_t(4, (documents, columns))
    return PairedSums(noise * np.sqrt(tokens)[:, None] * np.linspace(0.5, 3, columns), tokens)


def covers(sums: PairedSums, truth: NDArray[np.float64], seed: int) -> bool:
    found = paired_intervals(sums, replicates=2000, seed=seed)
    return all(i.low <= t <= i.high for i, t in zip(found.intervals, truth, strict=True))


@pytest.mark.parametrize(("documents", "columns"), [(40, 1), (40, 6), (120, 6)])
def test_coverage_where_nothing_is_true(documents: int, columns: int) -> None:
    rng = np.random.default_rng(documents + columns)
    hits = [covers(null_draw(rng, documents, columns), np.zeros(columns), seed) for seed in range(400)]
    assert 0.92 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize("side", [-1, 1], ids=["a tail of losses", "a tail of gains"])
def test_each_end_has_its_own_error_where_a_few_documents_decide(side: int) -> None:
    """By the largest |t|, the end away from the tail missed in 7% of these samples, and the other in none."""
    rng = np.random.default_rng(30)
    tokens = np.full(30, 100.0)
    wrong = {"low": 0, "high": 0}
    for seed in range(400):
        skewed = side * (rng.lognormal(0, 1, (30, 6)) - math.exp(0.5))
        found = paired_intervals(PairedSums(skewed * 100, tokens), replicates=600, seed=seed).intervals
        wrong["low"] += any(i.low > 0 for i in found)
        wrong["high"] += any(i.high < 0 for i in found)
    away = "low" if side < 0 else "high"
    assert wrong[away] / 400 < 0.05
    assert sum(wrong.values()) > wrong[away] > 0


def test_mirrored_differences_have_mirrored_intervals() -> None:
    sums = null_draw(np.random.default_rng(8), 40, 3)
    found, mirrored = (
        paired_intervals(PairedSums(sign * sums.difference_sums, sums.tokens), replicates=500, seed=0)
        for sign in (1, -1)
    )
    assert (found.below, found.above) == (mirrored.above, mirrored.below)
    assert [i.low for i in found.intervals] == [-i.high for i in mirrored.intervals]


def test_separate_intervals_would_not_cover_jointly() -> None:
    """The experiment can tell: without the joint critical value coverage falls far below the level."""
    rng = np.random.default_rng(5)
    hits = []
    for seed in range(300):
        sums = null_draw(rng, 60, 6)
        single = paired_intervals(PairedSums(sums.difference_sums[:, :1], sums.tokens), replicates=500, seed=seed)
        found = zip(sums.estimates(), sums.standard_errors(), strict=True)
        hits.append(all(-single.above * error <= estimate <= single.below * error for estimate, error in found))
    assert np.mean(hits) < 0.9


def test_clusters_count_not_tokens() -> None:
    """Splitting each document's sum over ten tokens-alike documents would claim √10 less; the same documents do not."""
    rng = np.random.default_rng(1)
    sums = null_draw(rng, 50, 1)
    longer = PairedSums(sums.difference_sums * 10, sums.tokens * 10)
    assert longer.standard_errors() == pytest.approx(sums.standard_errors())


def test_one_column_by_hand() -> None:
    sums = PairedSums(np.array([[2.0], [1.0], [3.0]]), np.array([1.0, 1.0, 2.0]))
    # ratio 6/4; residuals 0.5, -0.5, 0; SE = sqrt(3/2 · 0.5)/4
    assert sums.estimates() == pytest.approx([1.5])
    assert sums.standard_errors() == pytest.approx([math.sqrt(0.75) / 4])
    found = paired_intervals(sums, replicates=500, seed=0)
    (interval,) = found.intervals
    assert interval.high - interval.estimate == pytest.approx(found.above * interval.standard_error)
    assert interval.estimate - interval.low == pytest.approx(found.below * interval.standard_error)
    assert not interval.simultaneous


def test_a_zero_step_has_no_width_and_leaves_the_others_alone() -> None:
    sums = null_draw(np.random.default_rng(2), 50, 3)
    padded = PairedSums(np.insert(sums.difference_sums, 1, 0.0, axis=1), sums.tokens)
    found, alone = paired_intervals(padded, seed=3), paired_intervals(sums, seed=3)
    zero = found.intervals[1]
    assert (zero.estimate, zero.low, zero.high, zero.standard_error) == (0, 0, 0, 0)
    assert found.intervals[:1] + found.intervals[2:] == alone.intervals
    still = paired_intervals(PairedSums(np.zeros((9, 2)), np.ones(9)), seed=0)
    assert (still.below, still.above) == (0, 0)


def test_a_difference_in_a_single_document_proves_nothing() -> None:
    difference = np.zeros((40, 2))
    difference[7, 0] = 5.0
    difference[:, 1] = np.linspace(0.9, 1.1, 40)
    lonely, steady = paired_intervals(PairedSums(difference, np.ones(40)), seed=0).intervals
    assert lonely.low < 0 < lonely.high < math.inf
    assert steady.low > 0


def test_a_single_document_gives_an_estimate_without_width() -> None:
    (interval,) = paired_intervals(PairedSums(np.array([[3.0]]), np.array([2])), seed=0).intervals
    assert (interval.estimate, interval.low, interval.high) == (1.5, 1.5, 1.5)


def test_documents_without_tokens_are_no_clusters() -> None:
    sums = null_draw(np.random.default_rng(4), 30, 2)
    with_empty = PairedSums(
        np.concatenate([sums.difference_sums, np.zeros((5, 2))]), np.concatenate([sums.tokens, np.zeros(5)])
    )
    assert with_empty.documents == 30
    assert paired_intervals(with_empty, seed=1) == paired_intervals(sums, seed=1)
    with pytest.raises(ValueError, match="no document has a token"):
        PairedSums(np.zeros((2, 1)), np.zeros(2))
    with pytest.raises(ValueError, match=r"\(2,\)"):
        PairedSums(np.zeros(2), np.ones(2))


def test_the_seed_decides_and_more_than_one_chunk_gives_the_same_kind_of_answer() -> None:
    sums = null_draw(np.random.default_rng(6), 3000, 2)
    first, again, other = (paired_intervals(sums, replicates=3000, seed=s).below for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert first == pytest.approx(other, rel=0.05)


@given(
    arrays(np.float64, (12, 3), elements=st.floats(-100, 100)),
    arrays(np.int64, 12, elements=st.integers(1, 500)),
    st.floats(0.01, 100),
)
@settings(deadline=None)
def test_intervals_are_finite_hold_their_estimate_and_scale_with_the_data(
    sums: NDArray[np.float64], tokens: NDArray[np.int64], factor: float
) -> None:
    found = paired_intervals(PairedSums(sums, tokens), replicates=200, seed=0)
    for interval in found.intervals:
        assert interval.low <= interval.estimate <= interval.high
        assert math.isfinite(interval.low)
        assert math.isfinite(interval.high)
    scaled = PairedSums(sums * factor, tokens)
    assert scaled.standard_errors() == pytest.approx(PairedSums(sums, tokens).standard_errors() * factor, abs=1e-12)


@pytest.mark.parametrize("blocks", [2, 5, 6])
def test_excess_is_over_the_median_of_the_others(blocks: int) -> None:
    sums = null_draw(np.random.default_rng(blocks), 80, blocks)
    gains = sums.estimates()
    found = excess_gain_intervals(sums, replicates=300, seed=0)
    assert found is not None
    for block, interval in enumerate(found.intervals):
        assert interval.estimate == pytest.approx(gains[block] - np.median(np.delete(gains, block)))


def test_excess_finds_the_one_block_that_gains_more_and_needs_two_blocks() -> None:
    rng = np.random.default_rng(9)
    common = rng.normal(0.02, 0.03, (100, 1)) * 50  # what all blocks gain alike cancels
    sums = common + rng.normal(0, 0.1, (100, 6))
    sums[:, 3] += 0.01 * 50
    found = excess_gain_intervals(PairedSums(sums, np.full(100, 50)), seed=0)
    assert found is not None
    assert [i.low > 0 for i in found.intervals] == [False, False, False, True, False, False]
    assert excess_gain_intervals(PairedSums(sums[:, :1], np.full(100, 50)), seed=0) is None


def test_excess_covers_where_all_blocks_are_alike() -> None:
    rng = np.random.default_rng(10)
    hits = []
    for seed in range(300):
        found = excess_gain_intervals(null_draw(rng, 60, 6), replicates=1000, seed=seed)
        assert found is not None
        hits.append(all(i.low <= 0 <= i.high for i in found.intervals))
    assert 0.91 <= np.mean(hits) <= 0.99


def test_score_is_the_ratio_with_its_z() -> None:
    found = score(np.array([2.0, 1.0, 3.0]), np.array([1.0, 1.0, 2.0]))
    assert found.mean == pytest.approx(1.5)
    assert found.z == pytest.approx(1.5 / (math.sqrt(0.75) / 4))
    assert score(np.zeros(5), np.ones(5)).z == 0
    z = [score(np.random.default_rng(s).standard_t(4, 60), np.full(60, 9)).z for s in range(400)]
    assert np.std(z) == pytest.approx(1, abs=0.12)


def test_power_means_what_it_says() -> None:
    """An effect of δ80 is seen four times in five."""
    rng = np.random.default_rng(11)
    seen = []
    for seed in range(400):
        noise = rng.normal(0, 1, (100, 1))
        effect = smallest_visible_effect(1 / math.sqrt(100), 1.96)
        (interval,) = paired_intervals(PairedSums(noise + effect, np.ones(100)), replicates=500, seed=seed).intervals
        seen.append(interval.low > 0)
    assert np.mean(seen) == pytest.approx(0.8, abs=0.06)


def test_documents_needed_and_expected_errors_follow_the_square_root() -> None:
    assert documents_needed(50, 0.02, 0.01) == 200
    assert documents_needed(50, 0.0101, 0.01) == 52
    sums = null_draw(np.random.default_rng(3), 40, 2)
    assert error_on(sums, 160) == pytest.approx(sums.standard_errors() / 2)
