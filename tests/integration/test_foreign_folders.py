"""Peelbound works from a directory whose own folders are named like its parts.

Ray puts the driver's working directory on the import path of its workers, so the danger is there as well as here.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import DEADLINE_SECONDS

PROGRAM = """
import json, os
import ray
from peelbound.service.controller.cluster import start_ray
from peelbound.service.settings import Settings

def where():
    import os, sys
    import peelbound.api.hosts, peelbound.service.settings, peelbound.workers.errors
    files = [module.__file__ for module in (peelbound.api.hosts, peelbound.service.settings, peelbound.workers.errors)]
    return files, os.getpid()

start_ray(Settings(workers=1))
try:
    files, process = ray.get(ray.remote(where).remote())
finally:
    ray.shutdown()
print(json.dumps({"here": where()[0], "worker": files, "another_process": process != os.getpid(), "cwd": os.getcwd()}))
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A user's directory: importing anything in it is an error."""
    for name in ("api", "service", "workers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the {name} of the user was imported')\n")
    (tmp_path / "peelbound.py").write_text("raise ImportError('the peelbound of the user was imported')\n")
    return tmp_path


def test_the_folders_would_be_imported_if_they_were_on_the_path(foreign: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import peelbound"],
        cwd=foreign,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert "the peelbound of the user was imported" in run.stderr


def test_driver_and_ray_workers_import_the_installed_package(foreign: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], cwd=foreign, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["another_process"]
    assert found["worker"] == found["here"]
    assert not [file for file in found["here"] if Path(file).is_relative_to(foreign)]
    assert found["cwd"] == str(foreign)
