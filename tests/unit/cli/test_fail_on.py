"""What the gate lets pass when nobody says what it should look for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peelbound.cli.fail_on import DEFAULT, FailOn, offences
from peelbound.service.schemas.report import CheckpointVerdict, CloudSummary, Summary

CI = Path(__file__).parents[3] / "docs" / "ci.md"


def summary(status: CheckpointVerdict, inert: list[int], lagging: list[int]) -> Summary:
    return Summary.model_construct(
        status=status, cloud=CloudSummary.model_construct(), inert_blocks=inert, lagging_blocks=lagging
    )


def documented() -> Callable[[Summary], bool]:
    """The gate that docs/ci.md has for Python."""
    (snippet,) = (text for text in CI.read_text(encoding="utf-8").split("```") if "def passes" in text)
    names: dict[str, Any] = {}
    exec(snippet.removeprefix("python\n"), names)
    gate: Callable[[Summary], bool] = names["passes"]
    return gate


@pytest.mark.parametrize("status", CheckpointVerdict)
def test_the_documented_gate_in_python_is_that_of_the_command_line(status: CheckpointVerdict) -> None:
    rule, gate = FailOn().convert(DEFAULT, None, None), documented()
    for inert, lagging in (([], []), ([2], []), ([], [2])):
        found = summary(status, inert, lagging)
        assert gate(found) == (offences(found, rule) == [])


@pytest.mark.parametrize(("seen", "broken"), [(False, ["control_missed"]), (True, []), (None, [])])
def test_a_missed_control_fails_the_gate_that_asks_for_it(seen: bool | None, broken: list[str]) -> None:
    found = summary(CheckpointVerdict.HOLDS, [], []).model_copy(update={"damage_seen": seen})
    assert offences(found, FailOn().convert("inert,control_missed", None, None)) == broken
    assert offences(found, FailOn().convert(DEFAULT, None, None)) == []


@pytest.mark.parametrize("status", CheckpointVerdict)
def test_by_default_only_what_found_nothing_on_enough_text_passes(status: CheckpointVerdict) -> None:
    rule = FailOn().convert(DEFAULT, None, None)
    passes = {CheckpointVerdict.HOLDS, CheckpointVerdict.NO_GAIN_ON_THIS_DATA, CheckpointVerdict.IN_SAMPLE_ONLY}
    assert (offences(summary(status, [], []), rule) == []) == (status in passes)
    assert "inert" in offences(summary(status, [2], []), rule)
    assert "lagging" in offences(summary(status, [], [2]), rule)
