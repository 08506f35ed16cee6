"""What a process says and does when the settings of its environment cannot be used."""

import logging
from collections.abc import Iterator

import pytest

from peelbound.service.settings import Settings
from peelbound.service.starting import settings_or_exit


@pytest.fixture(autouse=True)
def same_logs() -> Iterator[None]:
    """The root logger as it was before."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level


def test_settings_are_those_of_the_environment_and_logs_are_as_they_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PEELBOUND_WORKERS", "3")
    monkeypatch.setenv("PEELBOUND_LOG_FORMAT", "json")
    assert settings_or_exit() == Settings(workers=3, log_format="json")
    logging.getLogger("one").info("said")
    assert '"message": "said"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"PEELBOUND_WORKERS": "many", "PEELBOUND_ALLOW": "/data"},
            ["PEELBOUND_ALLOW: This is no JSON", "PEELBOUND_WORKERS: Input should be a valid integer"],
        ),
        ({"PEELBOUND_STATE_DIR": "~nobody-of-this-name/state"}, ["PEELBOUND_STATE_DIR: Could not determine home"]),
        ({"PEELBOUND_OIDC_ISSUER": "https://login.example.com"}, ["oidc_issuer needs oidc_audience"]),
    ],
    ids=["two", "home of nobody", "several together"],
)
def test_each_wrong_setting_is_a_line_of_its_own(
    variables: dict[str, str], said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        settings_or_exit()
    assert caught.value.code == 2
    lines = sorted(capsys.readouterr().err.splitlines())
    assert [line[: len(start)] for line, start in zip(lines, said, strict=True)] == said
    assert all(line.endswith(".") for line in lines)
