"""Two API processes on one database: whatever one is told, the other knows, also when the first dies."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag

import httpx2
import pytest

from peelbound.client import Client
from peelbound.service.database.schema import open_database
from peelbound.service.database.tokens import Tokens
from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.request import AuditRequest, Calibration
from peelbound.service.settings import Settings
from tests.acting_controller import ActingController, acting_controller
from tests.waiting import DEADLINE_SECONDS

REQUEST = AuditRequest(checkpoint="/data/ckpt", calibration=Calibration(uri="/data/text.jsonl"))
COMMAND = [sys.executable, "-P", "-m", "uvicorn", "--factory", "peelbound.api.app:create_app"]


@dataclass
class Replica:
    """An API process; it listens before it is up, so nobody needs to wait for it."""

    url: str
    process: "subprocess.Popen[bytes]"
    token: str

    def client(self) -> Client:
        return Client(self.url, self.token)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=DEADLINE_SECONDS)


@contextmanager
def replica(settings: Settings, token: str) -> Iterator[Replica]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, descriptor = listener.getsockname()[1], listener.fileno()
        process = subprocess.Popen(
            [*COMMAND, "--fd", str(descriptor)],
            env=os.environ | settings.environment(),
            pass_fds=[descriptor],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        yield Replica(f"http://127.0.0.1:{port}", process, token)
    finally:
        process.kill()
        process.wait(timeout=DEADLINE_SECONDS)


@dataclass
class Service:
    first: Replica
    second: Replica
    controller: ActingController


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[Service]:
    settings = Settings(state_dir=tmp_path, database_url=database_url, allow=["/data"])
    engine = open_database(database_url, wait_seconds=0, migrating=True)
    token = Tokens(engine).create("acme", "test", frozenset({"read", "write"}))
    engine.dispose()
    with ExitStack() as stack:
        first = stack.enter_context(replica(settings, token))
        second = stack.enter_context(replica(settings, token))
        yield Service(first, second, stack.enter_context(acting_controller(settings)))


def numbers(replica: Replica, audit_id: str, after: int, seen: Callable[[int], None]) -> None:
    """Read the raw stream and hand on each event's number."""
    headers = {"Authorization": f"Bearer {replica.token}", "Last-Event-ID": str(after)}
    url = f"{replica.url}/v1/audits/{audit_id}/events"
    with httpx2.stream("GET", url, headers=headers, timeout=DEADLINE_SECONDS, trust_env=False) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("id: "):
                seen(int(line[4:]))


def test_a_stream_at_one_replica_tells_what_happens_at_the_other_and_outlives_it(service: Service) -> None:
    with service.first.client() as first:
        record = first.submit(REQUEST, idempotency_key="k")
    seen: list[int] = []
    begun = Flag()

    def note(number: int) -> None:
        seen.append(number)
        if number >= 3:
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(numbers, service.second, record.id, 0, note)
        claim = service.controller.claim()
        service.controller.advance(claim, 1)
        assert begun.wait(DEADLINE_SECONDS)
        service.first.kill()
        service.controller.advance(claim, 2)
        service.controller.publish(claim)
        following.result(timeout=DEADLINE_SECONDS)
    assert seen == [1, 2, 3, 4, 5]
    with service.second.client() as second:
        assert second.submit(REQUEST, idempotency_key="k").id == record.id
        assert second.report(record.id).verdict.status == "holds"


def test_a_stream_whose_replica_dies_goes_on_at_the_other_without_gap_or_repetition(service: Service) -> None:
    with service.second.client() as second:
        record = second.submit(REQUEST)
    seen: list[int] = []
    begun = Flag()

    def note(number: int) -> None:
        seen.append(number)
        if number >= 3:
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(numbers, service.first, record.id, 0, note)
        claim = service.controller.claim()
        service.controller.advance(claim, 1)
        assert begun.wait(DEADLINE_SECONDS)
        service.first.kill()
        with pytest.raises(httpx2.TransportError):
            following.result(timeout=DEADLINE_SECONDS)
    service.controller.advance(claim, 2)
    with service.second.client() as second:
        assert second.cancel(record.id).state is AuditState.CANCELLING
    assert service.controller.leases.cancelled(claim)
    numbers(service.second, record.id, seen[-1], seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]
