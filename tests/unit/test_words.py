"""Phrases keep the sources of what they print."""

import pytest

from peelbound.service.schemas.report import Citation, Interval
from peelbound.service.words import compose, enumerated, interval, nats, nats_text, percent, plain, z_value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (3.4841, "3.484"),
        (-0.31, "-0.310"),
        (0.0012, "0.0012"),
        (0.00005, "0.0001"),
        (0.00003, "3e-05"),
        (-1e-9, "-1e-09"),
    ],
)
def test_a_loss_is_never_rounded_to_nothing(value: float, text: str) -> None:
    assert nats_text(value) == text


def test_phrases_carry_their_citations_into_the_sentence_once() -> None:
    block, cost = plain("/blocks/2/index", 3), nats("/blocks/2/skip_cost/estimate", 0.00031)
    silent = plain("/verdict/status", "holds")
    said = compose("Block {} costs {}, yes {}.", block, cost, cost, because=[silent]).sentence()
    assert said.text == "Block 3 costs 0.0003, yes 0.0003."
    assert said.cites == [
        Citation(path="/blocks/2/index", value=3),
        Citation(path="/blocks/2/skip_cost/estimate", value=0.00031),
        Citation(path="/verdict/status", value="holds"),
    ]


def test_a_name_with_braces_stays_as_it_is_when_composed_twice() -> None:
    inner = compose("bound {}", plain("/bound/network", "YES-1 {3,6}"))
    assert compose("{}, z {}", inner, z_value("/blocks/0/mlp_scale/z", 9.14)).text == "bound YES-1 {3,6}, z +9.1"


@pytest.mark.parametrize(("count", "text"), [(1, "1"), (2, "1 and 2"), (4, "1, 2, 3 and 4")])
def test_enumeration(count: int, text: str) -> None:
    listed = enumerated([plain(f"/blocks/{i}/index", i + 1) for i in range(count)])
    assert listed.text == text
    assert len(listed.cites) == count


@pytest.mark.parametrize(("joint", "kind"), [(True, "simultaneous "), (False, "")])
def test_an_interval_says_whether_it_covers_jointly(joint: bool, kind: str) -> None:
    value = Interval(estimate=0.1, low=-0.001, high=0.201, standard_error=0.05, simultaneous=joint)
    said = interval("/blocks/0/gain", value, percent("/settings/thresholds/level", 0.95))
    assert said.text == f"({kind}95% interval -0.0010 to 0.201)"
    assert [cite.path for cite in said.cites] == [
        "/settings/thresholds/level",
        "/blocks/0/gain/low",
        "/blocks/0/gain/high",
    ]


def test_what_did_not_vary_has_no_interval() -> None:
    """A single document's standard error is 0: its interval would look like certainty."""
    value = Interval(estimate=0.001, low=0.001, high=0.001, standard_error=0.0)
    assert interval("/x", value, percent("/settings/thresholds/level", 0.95)).text == "(without an interval)"
