"""Fixtures of the command line's tests."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest

from peelbound.cli.main import main
from tests.integration.client.harness import Service, service
from tests.waiting import DEADLINE_SECONDS

__all__ = ["service"]

PEELBOUND = Path(sysconfig.get_path("scripts"), "peelbound")
Run = Callable[..., "subprocess.CompletedProcess[str]"]

# A module of the standard library in the controller's place: it starts quickly and runs until it is told to stop.
STAND_IN = [sys.executable, "-P", "-m", "peelbound.leash", "http.server", "--bind", "127.0.0.1", "0"]


def stand_ins() -> list[psutil.Process]:
    """Those that this process has started, and that are alive."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "peelbound.leash" in child.cmdline()]


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """An environment in which no service is known."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PEELBOUND_")}
    return known | {"PEELBOUND_STATE_DIR": str(tmp_path / "state-of-nobody")}


@pytest.fixture
def program(surroundings: dict[str, str], tmp_path: Path) -> Run:
    """Runs the installed `peelbound` in a directory of its own: for what only a process of its own can show."""

    def peelbound(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [PEELBOUND, *words],
            env=surroundings | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )

    return peelbound


@pytest.fixture
def run(surroundings: dict[str, str], tmp_path: Path) -> Run:
    """The same in this process, which has imported already what a program takes half a second for."""

    def peelbound(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        command = ["peelbound", *words]
        written = io.BytesIO(), io.BytesIO()
        output, errors = (io.TextIOWrapper(stream, "utf-8", write_through=True) for stream in written)
        with (
            patch.dict(os.environ, surroundings | variables, clear=True),
            patch.object(sys, "argv", command),
            contextlib.chdir(tmp_path),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            _logs_kept(),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        said = [stream.getvalue().decode() for stream in written]
        return subprocess.CompletedProcess(command, int(ended.value.code or 0), *said)

    return peelbound


@contextmanager
def _logs_kept() -> Iterator[None]:
    """Some commands say where their process's logs go."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture
def served(run: Run, service: Service) -> Run:
    """Runs `peelbound` against the service of the test."""

    def peelbound(*words: str) -> "subprocess.CompletedProcess[str]":
        return run(*words, PEELBOUND_URL=service.url, PEELBOUND_TOKEN=service.token)

    return peelbound
