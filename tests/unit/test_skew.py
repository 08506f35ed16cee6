"""Intervals that few documents decide are said to be doubtful."""

import numpy as np
import pytest

from peelbound.service.skew import skew_caveats, skew_limit
from peelbound.service.statistics import PairedSums


def gains(documents: int, losing: int) -> PairedSums:
    """Of documents that gain about 0.01 each, but for a few that lose 1."""
    differences = np.linspace(0.009, 0.011, documents)
    differences[:losing] = -1
    return PairedSums(differences[:, None], np.ones(documents))


def test_skewness_is_that_of_the_residuals_and_0_where_nothing_varies() -> None:
    columns = np.array([[0.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
    assert PairedSums(columns, np.ones(3)).skewness() == pytest.approx([2**-0.5, 0])
    assert PairedSums(columns + 5, np.ones(3)).skewness() == pytest.approx([2**-0.5, 0])


def test_more_documents_forgive_more_skewness() -> None:
    assert [round(skew_limit(n), 1) for n in (30, 100, 400)] == [2.0, 2.7, 3.8]


def test_who_rests_on_a_few_documents_is_named() -> None:
    even = PairedSums(np.random.default_rng(0).normal(size=(40, 1)), np.ones(40))
    found = {"block 1": even, "block 2": gains(40, 1), "the head control": gains(40, 2)}
    (caveat,) = skew_caveats(found)
    assert "A few of the 40 check documents decide the gain of block 2 and the head control:" in caveat
    assert skew_caveats({"block 1": even}) == []
    assert skew_caveats({"block 1": gains(40, 20)}) == []
