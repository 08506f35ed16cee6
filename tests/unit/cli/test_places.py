"""Places on the command line: made absolute, and never the current directory by mistake."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from peelbound.cli.main import cli
from peelbound.cli.places import Directory, Place, Prefix


def test_paths_become_absolute_and_uris_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert Place()("link/../link") == str(tmp_path.resolve() / "real")
    assert Prefix()("real/../link") == str(tmp_path / "link")
    for kind in (Place(), Prefix()):
        assert kind("s3://models/a/../b") == "s3://models/a/../b"
        assert kind("file:///models") == "file:///models"


@pytest.mark.parametrize("kind", [Place(), Prefix(), Directory()])
def test_nothing_is_no_place(kind: click.ParamType[str]) -> None:
    for empty in ("", " "):
        with pytest.raises(click.BadParameter, match="empty"):
            kind(empty)


def test_the_home_of_nobody_is_no_place() -> None:
    with pytest.raises(click.BadParameter, match="no path"):
        Place()("~no-such-user/ckpt")


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "", "--calibration", "text.txt"],
        ["audit", "ckpt", "--calibration", ""],
        ["plan", "ckpt", "--calibration", "text.txt", "--baseline", ""],
        ["audit", "ckpt", "--calibration", "text.txt", "--out", ""],
        ["wait", "ID", "--out", ""],
        ["up", "--allow", ""],
        ["up", "--state-dir", ""],
    ],
)
def test_a_place_that_is_empty_is_wrong_usage(words: list[str]) -> None:
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "is a variable not set?" in done.stderr


def test_a_place_that_cannot_be_looked_at_is_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PEELBOUND_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("PEELBOUND_URL", raising=False)
    for place, why in (("x" * 300, "File name too long"), ("file/ckpt", "Not a directory"), ("nowhere", "There is no")):
        done = CliRunner().invoke(cli, ["plan", str(tmp_path / place), "--calibration", str(tmp_path / "file")])
        assert (done.exit_code, "started" in done.stderr) == (2, False)
        assert why in " ".join(done.stderr.split())
