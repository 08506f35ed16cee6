"""SIGTERM: a replica says that it is about to end, lets go of those who wait, answers for a while, and ends well."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from peelbound.client import Client
from peelbound.service.database.schema import open_database
from peelbound.service.database.tokens import Tokens
from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.request import AuditRequest, Calibration
from peelbound.service.settings import Settings
from tests.s3_server import free_ports
from tests.waiting import DEADLINE_SECONDS, until

REQUEST = AuditRequest(checkpoint="/data/ckpt", calibration=Calibration(uri="/data/text.jsonl"))


@dataclass
class Replica:
    url: str
    token: str
    process: "subprocess.Popen[bytes]"

    def get(self, path: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.get(self.url + path, headers=headers, timeout=DEADLINE_SECONDS, trust_env=False)

    def ready(self) -> int:
        try:
            return self.get("/readyz").status_code
        except httpx2.TransportError:
            return 0


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    settings = Settings(state_dir=tmp_path, port=free_ports(1)[0], allow=["/data"], drain_seconds=3)
    engine = open_database(settings.resolved_database_url, wait_seconds=0)
    token = Tokens(engine).create("acme", "test", frozenset({"read", "write"}))
    engine.dispose()
    command = [sys.executable, "-P", "-m", "peelbound.api"]
    with subprocess.Popen(command, env=os.environ | settings.environment(), stderr=subprocess.DEVNULL) as process:
        found = Replica(f"http://127.0.0.1:{settings.port}", token, process)
        try:
            until(lambda: found.ready() == 200)
            yield found
        finally:
            process.kill()


def test_a_replica_takes_its_leave(replica: Replica) -> None:
    with Client(replica.url, replica.token) as client:
        audit = client.submit(REQUEST).id
    streamed: list[str] = []
    polled: list[int] = []
    begun = threading.Event()

    def follow() -> None:
        headers = {"Authorization": f"Bearer {replica.token}"}
        url = f"{replica.url}/v1/audits/{audit}/events"
        with httpx2.stream("GET", url, headers=headers, timeout=DEADLINE_SECONDS, trust_env=False) as response:
            for line in response.iter_lines():
                streamed.append(line)
                begun.set()

    waiting = [
        threading.Thread(target=follow),
        threading.Thread(target=lambda: polled.append(replica.get(f"/v1/audits/{audit}?wait=60").status_code)),
    ]
    for thread in waiting:
        thread.start()
    assert begun.wait(DEADLINE_SECONDS)
    replica.process.send_signal(signal.SIGTERM)
    until(lambda: replica.ready() == 503)
    assert replica.get("/readyz").json()["type"] == "/problems/replica-ending"
    assert replica.get(f"/v1/audits/{audit}").json()["state"] == AuditState.QUEUED  # still answered
    for thread in waiting:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()
    assert any('"queued"' in line for line in streamed)
    assert polled == [200]
    assert replica.process.wait(DEADLINE_SECONDS) == 0
