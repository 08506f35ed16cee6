"""What the gate lets pass when nobody says what it should look for."""

import pytest

from peelbound.cli.fail_on import DEFAULT, FailOn, offences
from peelbound.service.schemas.report import CheckpointVerdict, CloudSummary, Summary


def summary(status: CheckpointVerdict, inert: list[int], lagging: list[int]) -> Summary:
    return Summary.model_construct(
        status=status, cloud=CloudSummary.model_construct(), inert_blocks=inert, lagging_blocks=lagging
    )


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
