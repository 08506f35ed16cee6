"""The API against its own description: schemathesis makes requests of it, valid and not, with every check on.

It runs as a command against a real server: its phases (examples, coverage, fuzzing, sequences of calls by links) are
those of the command. FUZZ_EXAMPLES is how many requests it makes up for each operation, FUZZ_SEED where it begins.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.service import served

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(3600)
def test_every_request_is_answered_as_the_description_says(tmp_path: Path, seed: int) -> None:
    examples = os.environ.get("FUZZ_EXAMPLES")
    # A plan that is admitted starts a process that imports torch: seconds each, so only in the long run.
    more = [] if examples else ["--exclude-operation-id", "planAudit"]
    with served(tmp_path / "state") as (address, token):
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"),
            *(f"{address}/openapi.json", "--header", f"Authorization: Bearer {token}"),
            *("--checks", "all", "--max-examples", examples or "5", "--seed", str(seed), "--request-timeout", "120"),
            *("--continue-on-failure", "--no-color", *more),
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
