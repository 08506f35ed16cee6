"""Blocks are redundant where one fresh block costs less than the tolerance in their place, and that is shown."""

import math

import pytest

from peelbound.service.redundancy import is_redundant
from peelbound.service.schemas.report import MatrixCell
from peelbound.service.verdict import judge
from tests.verdict_fixture import around, block, cell, evidence


@pytest.mark.parametrize(
    ("cost", "half_width", "width", "documents", "redundant"),
    [
        (0.004, 0.002, 2, 30, True),
        (-0.02, 0.002, 2, 30, True),
        (0.004, 0.002, 3, 30, True),
        (0.009, 0.002, 2, 30, False),
        (0.02, 0.002, 2, 30, False),
        (math.nan, 0.002, 2, 30, False),
        (0.004, 0.002, 1, 30, None),
        (0.004, 0.002, 2, 29, None),
    ],
)
def test_redundant_is_what_is_shown_to_cost_less_than_matters(
    cost: float, half_width: float, width: int, documents: int, redundant: bool | None
) -> None:
    assert is_redundant(around(cost, half_width), width, documents, enough=30, tolerance=0.01) is redundant


def said(*matrix: MatrixCell) -> str:
    """The sentences on redundancy in a verdict on eight blocks."""
    verdict = judge(evidence(blocks=(block(),) * 8, matrix=matrix)).verdict
    without = judge(evidence(blocks=(block(),) * 8)).verdict
    assert verdict.headline == without.headline
    assert verdict.status == without.status
    return " ".join(s.text for s in verdict.sentences[len(without.sentences) :])


def test_the_longest_and_cheapest_come_first() -> None:
    assert said(
        cell(0, 1, -0.1),
        cell(2, 4, 0.003, redundant=True),
        cell(3, 5, 0.002, redundant=True),
        cell(3, 6, 0.005, redundant=True),
        cell(4, 6, 0.03, redundant=False),
    ) == (
        "One fresh block can replace blocks 4 to 6, which makes these redundant: it costs 0.0050 nats (simultaneous "
        "95% interval 0.0030 to 0.0070) on select, less than the tolerance of 0.01. So are blocks 4 and 5 and blocks 3 "
        "and 4, each by themselves; what replacing several would cost together was not measured."
    )


def test_where_many_are_the_matrix_says_which() -> None:
    few = [cell(at, at + 2, 0.001 * at, redundant=True) for at in range(7)]
    assert "others that the matrix marks" not in said(*few[:6])
    assert "blocks 6 and 7" in said(*few[:6])
    many = [*few, cell(0, 3, 0.001, redundant=True)]
    assert "blocks 6 and 7, and others that the matrix marks, each by themselves" in said(*many)


def test_where_none_is_the_cheapest_is_said() -> None:
    none = said(
        cell(1, 3, 0.04, redundant=False), cell(2, 4, 0.031, redundant=False), cell(3, 5, math.nan, redundant=False)
    )
    assert none.startswith(
        "No neighbouring blocks are shown to be redundant: the cheapest to replace by one fresh block"
    )
    assert "blocks 3 and 4, cost 0.0310 nats (" in none


def test_too_few_documents_test_nothing() -> None:
    untested = said(cell(1, 2, 0.0), cell(1, 3, 0.0))
    assert (
        untested == "Whether neighbouring blocks are redundant is not tested: select has 32 documents, 30 are needed."
    )


def test_without_cells_of_two_blocks_nothing_is_said() -> None:
    assert said() == said(cell(1, 2, 0.0)) == said(cell(1, 3, math.nan, redundant=False)) == ""
