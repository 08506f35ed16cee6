"""A controller tells Prometheus what it did."""

import os
import socket
import subprocess
from pathlib import Path

from peelbound.service.settings import Settings
from tests.integration.controller.conftest import Inputs, Running
from tests.integration.controller.harness import COMMAND
from tests.waiting import DEADLINE_SECONDS, until


def test_solves_bytes_attempts_and_busy_workers_are_told(running: Running, inputs: Inputs) -> None:
    service, tenant = running.service, "metrics"
    until(lambda: "ready" in running.controller.said())
    before = running.controller.metrics()
    audit = service.submit(inputs.request(), tenant)
    service.succeeded(audit, tenant)
    service.wait(service.submit(inputs.request(inputs.directory / "nowhere"), tenant), tenant)
    until(lambda: running.controller.metrics()["peelbound_attempts_running",] == 0)
    after = running.controller.metrics()

    def more(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    assert more("peelbound_attempts_total", "published") == 1
    assert more("peelbound_attempts_total", "failed") == 1
    assert more("peelbound_attempt_seconds_count") == 2
    progress = service.record(audit, tenant).progress
    assert progress is not None
    assert more("peelbound_problems_total", "solved") > 0
    assert more("peelbound_problems_total", "found") == progress.problems_cached
    assert more("peelbound_problems_total", "solved") == progress.problems_done - progress.problems_cached
    weights = sum(file.stat().st_size for file in inputs.model.glob("*.safetensors"))
    assert more("peelbound_checkpoint_read_bytes_total") > weights  # every walk reads the blocks
    results = service.settings.state_dir / "objects" / "tenants" / tenant / "results"
    solutions = [file for kind in ("corrected", "state", "head") for file in (results / kind).rglob("*.object")]
    trailers = 40 * len(solutions)
    stored = sum(file.stat().st_size for file in solutions) - trailers
    assert more("peelbound_solution_written_bytes_total") == stored > 0
    assert after["peelbound_workers",] == 2
    assert after["peelbound_tasks_in_flight",] == 0
    assert 0 < more("peelbound_worker_busy_seconds_total") <= 2 * more("peelbound_attempt_seconds_sum")
    assert after["process_resident_memory_bytes",] > 0


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(state_dir=tmp_path, controller_metrics_port=taken.getsockname()[1])
        environment = os.environ | settings.environment()
        done = subprocess.run(
            COMMAND, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS
        )
    assert done.returncode == 3
    assert "PEELBOUND_CONTROLLER_METRICS_PORT" in done.stderr
