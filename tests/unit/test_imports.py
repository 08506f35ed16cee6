"""What may be loaded by what, held at run time: import-linter (`make lint`) reads the sources, this starts Python."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import DEADLINE_SECONDS

NUMERICS = {"accelerate", "ray", "torch", "transformers"}
SERVER = {"alembic", "boto3", "fastapi", "jinja2", "numpy", "scipy", "sqlalchemy", "starlette", "uvicorn"}

# Everything below peelbound.service except what drives Ray, and the migrations, which only Alembic can load.
IMPORT_SERVICE = """
import importlib, pkgutil
import peelbound.service
for module in pkgutil.walk_packages(peelbound.service.__path__, "peelbound.service."):
    if ".controller" not in module.name and ".migrations" not in module.name:
        importlib.import_module(module.name)
"""


def loaded_by(program: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after the program."""
    report = "import sys; print('\\n'.join({name.partition('.')[0] for name in sys.modules}))"
    run = subprocess.run(
        [sys.executable, "-P", "-c", f"{program}\n{report}"], capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("program", "forbidden"),
    [
        pytest.param("import peelbound.api.app", NUMERICS, id="api"),
        pytest.param(IMPORT_SERVICE, NUMERICS, id="service"),
        pytest.param("import peelbound.service.controller.__main__", NUMERICS, id="a controller that begins"),
        pytest.param("import peelbound.service.controller.ray_probe", NUMERICS - {"ray"}, id="probe of Ray"),
        pytest.param("import peelbound.client", NUMERICS | SERVER, id="client"),
        pytest.param("import peelbound.cli.main", NUMERICS | SERVER, id="command-line"),
    ],
)
def test_loads_nothing_heavier_than_its_layer(program: str, forbidden: set[str]) -> None:
    loaded = loaded_by(program)
    assert "peelbound" in loaded
    assert loaded.isdisjoint(forbidden)


def test_a_forbidden_package_would_be_seen() -> None:
    assert "numpy" in loaded_by("import numpy.linalg")


def test_top_level_folders_are_not_importable_by_their_short_names(tmp_path: Path) -> None:
    program = "import importlib.util as u; print([n for n in ('api', 'service', 'workers') if u.find_spec(n)])"
    # Isolated: PYTHONPATH may name the repository itself, whose folders these are.
    command = [sys.executable, "-I", "-c", program]
    run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=DEADLINE_SECONDS)
    assert run.stdout.strip() == "[]"
