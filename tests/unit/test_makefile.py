"""`make` in a place where the virtual environment cannot be built."""

import subprocess
from pathlib import Path

from tests.waiting import DEADLINE_SECONDS

MAKEFILE = Path(__file__).parents[2] / "Makefile"

PYTHON_WITHOUT_ENSUREPIP = """#!/bin/sh
[ "$1" = -c ] && exit 0
mkdir -p .venv/bin && touch .venv/bin/python
exit 1
"""


def test_half_a_virtual_environment_is_not_left_behind(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(PYTHON_WITHOUT_ENSUREPIP)
    python.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    command = ["make", "-f", MAKEFILE, f"PYTHON={python}", ".venv"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
        assert done.returncode != 0
        assert "python3-venv" in done.stderr
        assert not (tmp_path / ".venv").exists()
