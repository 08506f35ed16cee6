"""Ctrl-C is no verdict, whenever it comes."""

import pytest
from click.testing import CliRunner

from peelbound.cli import main as module
from peelbound.cli.commands import wait
from peelbound.cli.main import cli, main


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_while_a_command_is_looked_up_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib, "import_module", interrupt)
    done = CliRunner().invoke(cli, ["wait", "ID"])
    assert (done.exit_code, done.output) == (130, "")


def test_an_interrupt_of_a_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "Client", interrupt)
    done = CliRunner().invoke(cli, ["wait", "ID"])
    assert (done.exit_code, done.output) == (130, "")


def test_an_interrupt_before_all_that_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cli", interrupt)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
