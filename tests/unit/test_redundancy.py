"""Blocks are redundant where one fresh block costs less than the tolerance in their place, and that is shown."""

import math

import pytest

from peelbound.service.redundancy import is_redundant, most_redundant
from peelbound.service.schemas.report import CheckpointVerdict, MatrixCell
from peelbound.service.verdict import judge
from tests.verdict_fixture import around, block, cell, evidence


@pytest.mark.parametrize(
    ("cost", "redundant"), [(0.004, True), (-0.02, True), (0.009, False), (0.02, False), (math.nan, False)]
)
def test_redundant_is_what_is_shown_to_cost_less_than_matters(cost: float, redundant: bool) -> None:
    assert is_redundant(around(cost, 0.002), 0.01) is redundant


def test_those_that_replace_most_come_first_and_of_those_the_cheapest() -> None:
    matrix = [
        cell(0, 1, -0.1),
        cell(2, 4, 0.003, redundant=True),
        cell(3, 5, 0.002, redundant=True),
        cell(3, 6, 0.005, redundant=True),
        cell(4, 6, 0.03, redundant=False),
    ]
    assert most_redundant(matrix) == [3, 2, 1]
    assert said(*matrix) == (
        "Blocks 4–6 are redundant: one fresh block in their place costs 0.0050 nats (simultaneous 95% interval 0.0030 "
        "to 0.0070) on select, less than the tolerance of 0.01. So are 4–5 and 3–4, each by themselves; what replacing "
        "several would cost together was not measured."
    )


def said(*matrix: MatrixCell, select_documents: int = 32) -> str:
    """The sentences on redundancy in a verdict on eight blocks, which changes nothing else."""
    others = evidence(blocks=(block(),) * 8, select_documents=select_documents)
    verdict = judge(evidence(blocks=(block(),) * 8, select_documents=select_documents, matrix=matrix)).verdict
    without = judge(others).verdict
    assert verdict.headline == without.headline
    assert verdict.status == without.status
    assert verdict.sentences[: len(without.sentences)] == without.sentences
    return " ".join(s.text for s in verdict.sentences[len(without.sentences) :])


def test_where_many_are_the_matrix_says_which() -> None:
    few = [cell(at, at + 2, 0.001 * at, redundant=True) for at in range(7)]
    assert "others that the matrix marks" not in said(*few)
    assert said(*few).count("–") == 7
    many = [*few, cell(0, 3, 0.001, redundant=True)]
    assert "and 6–7, and others that the matrix marks, each by themselves" in said(*many)


def test_where_none_is_the_cheapest_is_said() -> None:
    none = said(
        cell(1, 3, 0.04, redundant=False), cell(2, 4, 0.031, redundant=False), cell(3, 5, math.nan, redundant=False)
    )
    assert none.startswith(
        "No neighbouring blocks are shown to be redundant: the cheapest to replace by one fresh block"
    )
    assert ", 3–4, cost 0.0310 nats (" in none


def test_too_few_documents_of_select_test_nothing_and_the_remedy_is_said() -> None:
    untested = said(cell(1, 2, 0.0), cell(1, 3, 0.0), select_documents=12)
    assert untested == (
        "Whether neighbouring blocks are redundant is not tested: select has 12 documents, 30 are needed; supply more "
        "text, or let select have more sequences (--select-sequences)."
    )


def test_where_check_tests_nothing_nothing_is_said_of_redundancy() -> None:
    few = judge(evidence(blocks=(block(),) * 8, check_documents=10, matrix=(cell(2, 4, 0.001),))).verdict
    assert few.status is CheckpointVerdict.ESTIMATE_ONLY
    assert not any("redundant" in sentence.text for sentence in few.sentences)


def test_without_cells_of_two_blocks_nothing_is_said() -> None:
    assert said() == said(cell(1, 2, 0.0)) == said(cell(1, 3, math.nan, redundant=False)) == ""
