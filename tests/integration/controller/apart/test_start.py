"""A controller whose settings are wrong says so and ends, before it takes an audit."""

import re
from pathlib import Path
from typing import Any

import pytest

from peelbound.service.settings import Settings
from tests.integration.controller.harness import a_controller
from tests.waiting import DEADLINE_SECONDS


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"allow": ["data/models"]}, "PEELBOUND_ALLOW holds 'data/models'"),
        ({"store_url": "ftp://host/results"}, "PEELBOUND_STORE_URL is 'ftp://host/results'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_wrong_settings_end_it(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", **wrong)
    with a_controller(settings, tmp_path / "log") as controller:
        assert controller.process.wait(DEADLINE_SECONDS) == 3, controller.said()
        assert said in controller.said()
        assert not re.search("Traceback|local Ray", controller.said())


def test_a_variable_that_cannot_be_read_ends_it(tmp_path: Path) -> None:
    with a_controller(Settings(), tmp_path / "log", variables={"PEELBOUND_ALLOW": "/data"}) as controller:
        assert controller.process.wait(DEADLINE_SECONDS) == 2, controller.said()
        assert "PEELBOUND_ALLOW" in controller.said()
        assert "no JSON" in controller.said()
        assert "Traceback" not in controller.said()
