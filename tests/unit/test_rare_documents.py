"""Gains on few documents are said to know nothing of rarer ones."""

import pytest

from peelbound.service.rare_documents import rare_document_caveats
from peelbound.service.schemas.report import Interval


def gain(low: float) -> Interval:
    return Interval(estimate=low + 0.01, low=low, high=low + 0.02, standard_error=0.005, simultaneous=True)


@pytest.mark.parametrize(("documents", "one_in"), [(30, 10), (40, 13), (99, 33)])
def test_a_gain_that_is_shown_on_few_documents_says_how_rare_the_missing_ones_may_be(
    documents: int, one_in: int
) -> None:
    (caveat,) = rare_document_caveats([gain(-0.01), gain(0.001), gain(0.02)], documents)
    assert caveat.startswith(f"A gain is shown on {documents} check documents: ")
    assert f"up to one document in {one_in} may be missing" in caveat


def test_enough_documents_and_gains_that_are_not_shown_need_no_word() -> None:
    assert rare_document_caveats([gain(0.02)], 100) == []
    assert rare_document_caveats([gain(-0.01), gain(0.0)], 30) == []
    assert rare_document_caveats([], 30) == []
