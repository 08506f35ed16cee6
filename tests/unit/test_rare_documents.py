"""Gains on few documents are said to know nothing of rarer ones."""

import pytest

from peelbound.service.rare_documents import rare_document_caveats, redundancy_caveats
from peelbound.service.schemas.report import Interval
from tests.verdict_fixture import cell


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


def test_redundancy_is_of_its_time_and_on_few_documents_not_of_the_rarest() -> None:
    shown = [cell(0, 2, 0.02, redundant=False), cell(1, 3, 0.001, redundant=True)]
    time, rare = redundancy_caveats(shown, 60)
    assert time.startswith("Blocks are redundant at this point of training and on this text")
    assert rare.startswith(
        "Blocks are shown to be redundant on 60 select documents: what befalls up to one document in 20"
    )
    assert redundancy_caveats(shown, 100) == [time]
    assert redundancy_caveats(shown[:1], 60) == []
