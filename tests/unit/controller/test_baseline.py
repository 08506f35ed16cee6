"""The checkpoint before quantisation: from loss sums to the report's section."""

import json
from dataclasses import replace
from typing import cast

import pytest

from peelbound.service.controller.assemble import Assembly
from peelbound.service.controller.baseline import Baseline, baseline_name
from peelbound.service.controller.subject import Audited
from peelbound.service.schemas.report import Report
from tests.measured_fixture import Synthetic, context, measured, with_check_documents

NOT_READ = cast(Audited, None)


def report_of(damage: dict[int, float], whole: float, documents: int = 40) -> Report:
    """A report of a network that lost so much, and by block what the baseline's wins."""
    draw, made = Synthetic(), with_check_documents(context("quick", len(damage)), documents)
    given = measured(made)
    check = given.blocks.check | {
        baseline_name(block): draw.losses("check", 3.0 - lost, 0.0005) for block, lost in damage.items()
    }
    baseline = Baseline(NOT_READ, "b" * 64, draw.losses("check", 3.0 - whole, 0.0005))
    return Assembly(replace(given, blocks=replace(given.blocks, check=check), baseline=baseline), made).report()


def test_damage_is_what_the_baselines_blocks_and_its_whole_network_win_on_check() -> None:
    found = report_of({1: 0.03, 2: 0.0, 3: 0.01}, 0.05).baseline
    assert found is not None
    assert found.sha256 == "b" * 64
    assert found.loss == pytest.approx(2.95)
    assert found.damage.estimate == pytest.approx(0.05)
    assert [round(block.damage.estimate, 9) for block in found.blocks] == [0.03, 0.0, 0.01]
    assert all(block.damage.simultaneous for block in found.blocks)


def test_the_damaged_blocks_are_named_the_worst_first() -> None:
    found = report_of({1: 0.01, 2: -0.01, 3: 0.03}, 0.05).baseline
    assert found is not None
    assert "Blocks 3 and 1 were damaged, the worst first: the baseline's block 3, put in," in found.sentences[1].text
    lone = report_of({1: -0.01, 2: -0.01, 3: 0.03}, 0.05).baseline
    assert lone is not None
    assert lone.sentences[1].text.startswith("Block 3 of the baseline, put in, wins 0.0300 nats")
    none = report_of({1: -0.01, 2: -0.01, 3: -0.03}, 0.05).baseline
    assert none is not None
    assert none.sentences[1].text.startswith("No single block of the baseline")


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        (0.05, "; quantisation cost 0.0500 nats"),
        (0.0, "; quantisation is not shown to have cost anything: "),
        (-0.05, "; the audited network's is lower, a cost of -0.0500 nats"),
    ],
)
def test_words_follow_the_sign_of_what_quantisation_cost(whole: float, says: str) -> None:
    found = report_of({1: 0.03}, whole).baseline
    assert found is not None
    assert says in found.sentences[0].text


def test_too_few_check_documents_call_no_block_damaged() -> None:
    found = report_of({1: 0.01, 2: -0.01, 3: 0.03}, 0.05, documents=29).baseline
    assert found is not None
    few, _, largest = [sentence.text for sentence in found.sentences]
    assert few.startswith("Estimates only: check has 29 documents")
    assert "block 3 has the largest estimate of a gain: 0.0300 nats" in largest


@pytest.mark.parametrize("damage", [{1: 0.03, 2: 0.01, 3: 0.02}, {1: -0.1, 2: 0.01}, {1: -0.1}])
def test_every_sentence_cites_what_stands_in_the_report(damage: dict[int, float]) -> None:
    report = report_of(damage, 0.05)
    assert report.baseline is not None
    plain = json.loads(report.model_dump_json())
    for sentence in report.baseline.sentences:
        assert sentence.cites
        for cite in sentence.cites:
            found = plain
            for step in cite.path.split("/")[1:]:
                found = found[int(step)] if isinstance(found, list) else found[step]
            assert found == cite.value, cite.path
