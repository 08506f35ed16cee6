"""The image's entry point of a controller, with a stand-in for `ray` and for the controller itself."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.s3_server import free_ports
from tests.waiting import DEADLINE_SECONDS

SCRIPT = Path(__file__).parents[3] / "deploy" / "docker" / "controller.sh"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts the script with these settings; what it runs is written to standard output."""
    stand_ins = {
        "ray": 'echo "ray $* after $RAY_gcs_server_port_wait_time_s s"',
        "python": f'case "$*" in *ray_head) exec {sys.executable} "$@";; esac; echo "python $*"',
    }
    for name, line in stand_ins.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def start(**settings: str) -> "subprocess.Popen[str]":
        environment = {f"PEELBOUND_{name.upper()}": value for name, value in settings.items()}
        return subprocess.Popen(
            ["/bin/sh", SCRIPT],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(SCRIPT.parents[2]), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_node_is_made_once_the_head_answers_and_then_the_controller_runs(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        out, errors = start(ray_address=address).communicate(timeout=DEADLINE_SECONDS)
    assert out.splitlines() == [
        f"ray start --address={address} --num-cpus=0 --num-gpus=0 --disable-usage-stats after 1 s",
        "python -P -m peelbound.service.controller",
    ], errors


def test_without_a_head_ray_is_not_asked(start: Start) -> None:
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    process = start(ray_address=nobody, worker_start_seconds="0.1")
    out, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, out) == (3, "")
    assert f"No Ray cluster answers at {nobody}: " in errors


def test_sigterm_ends_the_wait(start: Start) -> None:
    process = start(ray_address=f"127.0.0.1:{free_ports(1)[0]}", worker_start_seconds="3600")
    assert process.stderr is not None
    assert "waiting for the Ray cluster" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=DEADLINE_SECONDS)  # not before what it waited for has ended, too
    assert (process.returncode, out) == (0, "")
