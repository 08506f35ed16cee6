"""Fixtures of the command line's tests."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

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
def run(tmp_path: Path) -> Run:
    """Runs `peelbound` in a directory of its own, where no service is known."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PEELBOUND_")}
    environment["PEELBOUND_STATE_DIR"] = str(tmp_path / "state-of-nobody")

    def peelbound(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [PEELBOUND, *words],
            env=environment | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )

    return peelbound


@pytest.fixture
def served(run: Run, service: Service) -> Run:
    """Runs `peelbound` against the service of the test."""

    def peelbound(*words: str) -> "subprocess.CompletedProcess[str]":
        return run(*words, PEELBOUND_URL=service.url, PEELBOUND_TOKEN=service.token)

    return peelbound
