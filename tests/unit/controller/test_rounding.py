"""What rounding would cost: from loss sums to the report's section."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peelbound.service.controller.assemble import Assembly
from peelbound.service.controller.rounding import RoundingMeasurements, alone, dearest_first, mixes, re_solved
from peelbound.service.plan import mix_sizes
from peelbound.service.schemas.report import Report
from tests.measured_fixture import Synthetic, context, measured, with_check_documents

SCHEME = "int4-g32"


def rounding(
    costs: dict[int, float], *, together: dict[int, float], select: dict[int, float] | None = None, back: float = 0.0
) -> RoundingMeasurements:
    """Measurements in which rounding a block alone costs so much, and all but the first few in order so much.

    Args:
        costs: on check, by block.
        together: on check, by the number of blocks kept.
        select: on select, where it is another.
        back: share of a block's cost that re-solving wins back, on both.
    """
    draw, trained = Synthetic(), 3.0
    on_select = {"trained": draw.losses("select", trained, 0)}
    on_check = {"trained": draw.losses("check", trained, 0)}
    for sums, split, values in ((on_select, "select", select or costs), (on_check, "check", costs)):
        for block, cost in values.items():
            sums[alone(SCHEME, block).name] = draw.losses(split, trained + cost, 0.0001)
            sums[re_solved(SCHEME, block, "").name] = draw.losses(split, trained + cost * (1 - back), 0.0001)
    order = dearest_first(SCHEME, sorted(costs), on_select)
    for mix, kept in zip(mixes(SCHEME, order), mix_sizes(len(order)), strict=True):
        on_check[mix.name] = draw.losses("check", trained + together[kept], 0.0001)
    tokens = float(draw.tokens["fit"].sum())
    products = [[cost * tokens / 2, -cost * tokens / 4] for cost in costs.values()]
    return RoundingMeasurements(SCHEME, products, order, draw.tokens, on_select, on_check)


def report_of(made: RoundingMeasurements, **options: Any) -> Report:
    given = context("quick", len(made.order), **options)
    return Assembly(replace(measured(given), rounding=made), given).report()


COSTS = {1: 0.08, 2: 0.002, 3: 0.03}
TOGETHER = {0: 0.115, 1: 0.033, 2: 0.002}


def test_blocks_are_kept_in_the_order_of_their_costs_on_select() -> None:
    made = rounding(COSTS, together=TOGETHER, select={1: 0.01, 2: 0.02, 3: 0.03})
    assert made.order == (3, 2, 1)
    assert [mix.rounds for mix in mixes(SCHEME, made.order)] == [(1, 2, 3), (1, 2), (1,)]
    assert made.mixes()[0] == [(), (3,), (2, 3)]


def test_costs_are_over_the_trained_network_on_check() -> None:
    what_if = report_of(rounding(COSTS, together=TOGETHER)).what_if
    assert what_if is not None
    assert {b.index: round(b.cost.estimate, 9) for b in what_if.blocks} == COSTS
    assert [round(m.cost.estimate, 9) for m in what_if.mixes] == list(TOGETHER.values())


def test_what_is_foretold_is_the_first_order_and_half_the_squares_of_whole_sequences() -> None:
    made = rounding(COSTS, together=TOGETHER)
    tokens = made.tokens["fit"].sum()
    what_if = report_of(made).what_if
    assert what_if is not None
    first = what_if.blocks[0]
    assert first.first_order == pytest.approx(0.08 * (1 / 2 - 1 / 4))
    squares = 0.5 * tokens * 0.08**2 * (1 / 4 + 1 / 16)
    assert first.predicted_cost == pytest.approx(first.first_order + squares)
    assert what_if.rank_agreement == 1.0


def test_the_fewest_blocks_are_kept_that_stay_within_the_tolerance() -> None:
    made = rounding(COSTS, together=TOGETHER)
    for tolerance, kept in ((0.2, []), (0.05, [1]), (0.01, [1, 3])):
        what_if = report_of(made, tolerance=tolerance).what_if
        assert what_if is not None
        assert what_if.enough is not None
        assert what_if.mixes[what_if.enough].kept == kept
    said = report_of(made, tolerance=0.05).what_if
    assert said is not None
    assert "Keep block 1 in full precision" in said.sentences[1].text
    assert "0.0330 nats" in said.sentences[1].text
    assert "instead of 0.115" in said.sentences[1].text


def test_where_no_mix_is_within_the_tolerance_it_says_so() -> None:
    what_if = report_of(rounding(COSTS, together=TOGETHER), tolerance=0.0001).what_if
    assert what_if is not None
    assert what_if.enough is None
    assert what_if.sentences[1].text.startswith("No mix that was measured is shown to cost at most 0.0001 nats")


def test_rounding_that_is_not_shown_to_cost_is_said_to_cost_nothing() -> None:
    what_if = report_of(rounding(dict.fromkeys(COSTS, -0.001), together={0: -0.003, 1: -0.002, 2: -0.001})).what_if
    assert what_if is not None
    assert "int4-g32 is not shown to cost anything, -0.0030 nats" in what_if.sentences[0].text
    assert "rounded alone is not shown to cost anything, -0.0010 nats" in what_if.sentences[2].text


def test_too_few_check_documents_name_no_block_that_may_be_rounded() -> None:
    given = with_check_documents(context("quick", 3, tolerance=0.2), 29)
    made = replace(measured(given), rounding=rounding(COSTS, together=TOGETHER, back=0.5))
    what_if = Assembly(made, given).report().what_if
    assert what_if is not None
    assert what_if.enough is None
    assert what_if.sentences[0].text.startswith("Estimates only: check has 29 documents, 30 are needed")
    said = " ".join(sentence.text for sentence in what_if.sentences)
    assert "may be rounded" not in said
    assert "No mix" not in said
    assert "wins" not in said


def test_what_re_solving_wins_back_is_taken_where_select_saw_a_gain() -> None:
    what_if = report_of(rounding(COSTS, together=TOGETHER, back=0.5)).what_if
    worse = report_of(rounding(COSTS, together=TOGETHER, back=-0.5)).what_if
    assert what_if is not None
    assert worse is not None
    assert [round(b.recovered.estimate, 9) for b in what_if.blocks] == [0.04, 0.001, 0.015]
    assert [b.recovered.estimate for b in worse.blocks] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("tolerance", [0.0001, 0.01, 0.2])
def test_every_sentence_cites_what_stands_in_the_report(tolerance: float) -> None:
    report = report_of(rounding(COSTS, together=TOGETHER, back=0.5), tolerance=tolerance)
    assert report.what_if is not None
    plain = json.loads(report.model_dump_json())
    for sentence in report.what_if.sentences:
        assert sentence.cites
        for cite in sentence.cites:
            found = plain
            for step in cite.path.split("/")[1:]:
                found = found[int(step)] if isinstance(found, list) else found[step]
            assert found == cite.value, cite.path


def test_few_mixes_of_a_deep_network_are_measured() -> None:
    assert mix_sizes(1) == (0,)
    assert mix_sizes(4) == (0, 1, 2, 3)
    assert mix_sizes(30) == (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)
    assert np.all(np.diff(mix_sizes(100)) > 0)
