"""The null experiment counts misses by their side."""

import numpy as np
import pytest

from bench.validity import coverage
from peelbound.service.statistics import PairedSums


def test_false_claims_are_counted_by_their_side_whatever_the_true_gain() -> None:
    """A few documents that lose much are lacking from many a sample: what those claim falsely is a gain."""
    rng = np.random.default_rng(0)
    differences = rng.normal(0.05, 0.01, (200, 2))
    differences[:4] -= 1
    found = coverage(PairedSums(differences * 100 + 500, np.full(200, 100)), 10, draws=40, replicates=200)
    assert (found.draws, found.documents, found.columns) == (40, 10, 2)
    assert found.false_gain > 0.5
    assert found.false_loss < 0.1
    assert found.joint == pytest.approx(1 - found.false_gain - found.false_loss)
    assert found.single < 0.5
