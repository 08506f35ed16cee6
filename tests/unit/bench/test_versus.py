"""The side-by-side bench: what it makes of competitors' answers, and how it watches a program."""

import json
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.versus.environments import REQUIREMENTS, environment, last_line
from bench.versus.measure import Cost, run
from bench.versus.table import Row, markdown, parse, suspicion

FOUND = {
    "seconds": 1.5,
    "score": {"1": 0.2, "2": 0.9, "3": 0.1},
    "score_means": "error",
    "suspicious": "high",
    "accused": [2, 3],
    "rule": "above a threshold",
    "details": {},
}
COST = Cost(0, 2.5, 300_000_000, 200_000_000, "")


def written(directory: Path, **changes: object) -> Path:
    path = directory / "found.json"
    path.write_text(json.dumps(FOUND | changes))
    return path


def row(directory: Path, damaged: int | None, **changes: object) -> Row:
    return Row("a tool", "frozen", damaged, COST, parse(written(directory, **changes)), None)


def test_a_tool_that_accuses_the_damaged_block_has_named_it_and_its_other_accusations_are_listed(
    tmp_path: Path,
) -> None:
    found = row(tmp_path, 2)
    assert found.named == "yes"
    assert found.others == "3"


def test_a_tool_that_accuses_others_only_has_not_named_the_damaged_block(tmp_path: Path) -> None:
    found = row(tmp_path, 1)
    assert found.named == "**no**"
    assert found.others == "2, 3"


def test_a_tool_without_a_rule_gets_the_rank_of_the_damaged_block_in_its_own_direction(tmp_path: Path) -> None:
    assert row(tmp_path, 3, accused=None).named == "no rule; it ranks 3 of 3"
    assert row(tmp_path, 3, accused=None, suspicious="low").named == "no rule; it ranks 1 of 3"
    assert suspicion(parse(written(tmp_path))) == [2, 1, 3]


def test_a_tool_without_figures_names_nothing(tmp_path: Path) -> None:
    assert row(tmp_path, 3, accused=None, score={}).named == "names no block"


def test_accusations_on_a_sound_model_are_all_false(tmp_path: Path) -> None:
    found = row(tmp_path, None)
    assert found.named == "nothing to name"
    assert found.others == "2, 3"


def test_an_answer_that_lacks_something_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps({key: value for key, value in FOUND.items() if key != "rule"}))
    with pytest.raises(ValueError, match="lacks rule"):
        parse(path)
    with pytest.raises(ValueError, match="neither high nor low"):
        parse(written(tmp_path, suspicious="odd"))


def test_the_table_shows_a_failed_tool_with_its_error(tmp_path: Path) -> None:
    failed = Row("another tool", "sound", None, None, None, "ERROR: no matching distribution")
    lines = markdown([row(tmp_path, 2), failed]).splitlines()
    assert lines[2] == "| a tool | frozen (block 2) | 2.5 | 1.5 | 300 (200) | yes | 3 |"
    assert "failed: ERROR: no matching distribution" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


def test_memory_is_that_of_all_processes_of_a_program_and_its_end_is_kept(tmp_path: Path) -> None:
    hold = "import time; held = bytearray(150_000_000); held[::4096] = b'x' * len(held[::4096]); time.sleep(1)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}]); print('the end'); sys.exit(3)"
    cost = run([sys.executable, "-c", program], tmp_path / "log")
    assert cost.returncode == 3
    assert cost.output.endswith("the end\n")
    assert cost.seconds > 1
    assert 150_000_000 < cost.peak_rss < 400_000_000


def made_with(python: str) -> Callable[..., None]:
    """Stands in for `venv.create`, which takes seconds: a shell script is the environment's Python."""

    def create(home: Path, *, clear: bool, with_pip: bool) -> None:
        assert clear
        assert with_pip
        path = home / "bin" / "python"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{python}\n")
        path.chmod(0o755)

    return create


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv, "create", made_with("echo 'ERROR: Invalid requirement: x y' >&2; exit 1"))
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("x y\n")
    found = environment(wanted, tmp_path / "environments")
    assert found.python is None
    assert found.error == "ERROR: Invalid requirement: x y"


def test_an_environment_is_made_once_for_the_same_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv, "create", made_with('echo "$@" >>"$0.log"'))
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("x==1\n")
    found = environment(wanted, tmp_path / "environments")
    assert environment(wanted, tmp_path / "environments") == found
    assert found.python is not None
    installed = found.python.with_name("python.log").read_text()
    assert installed == f"-m pip install --quiet --no-input --requirement {wanted}\n"


def test_the_last_error_of_a_failed_program_is_preferred_to_its_notices() -> None:
    assert last_line("Traceback\nValueError: wrong\n\n[notice] update pip\n") == "ValueError: wrong"
    assert last_line("one\ntwo\n") == "two"
    assert last_line("") == "no output"


def test_every_competitor_pins_one_version_of_each_package() -> None:
    for path in REQUIREMENTS.glob("*.txt"):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert "torch==2.13.0" in lines
        assert all(line.count("==") == 1 for line in lines)
        assert len({line.partition("==")[0] for line in lines}) == len(lines)
