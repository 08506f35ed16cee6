"""A real service on a real port, whose controller is the test."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from peelbound import embedded as module
from peelbound.api.draining import Draining
from peelbound.embedded import embedded
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.report import Report
from peelbound.service.schemas.request import AuditRequest, Calibration
from peelbound.service.settings import Settings
from tests.acting_controller import ActingController, acting_controller

REQUEST = AuditRequest(checkpoint="/data/ckpt", calibration=Calibration(uri="/data/text.jsonl"))


@dataclass
class Service:
    """Where it answers, with which token, and who acts as its controller."""

    url: str
    token: str
    state_dir: Path
    controller: ActingController

    @contextmanager
    def ending_the_next(self, outcome: "Report | Problem") -> Iterator[None]:
        """Meanwhile the next audit that comes in is run: it succeeds with a report, or fails with a problem."""
        given_up = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            done: Future[None] = pool.submit(self._end_next, outcome, given_up)
            try:
                yield
            finally:
                given_up.set()
            done.result()

    def _end_next(self, outcome: "Report | Problem", given_up: threading.Event) -> None:
        while (claim := self.controller.leases.claim("test")) is None:
            assert not given_up.wait(0.05), "no audit came in"
        for done in range(1, 4):
            self.controller.advance(claim, done)
        if isinstance(outcome, Problem):
            assert self.controller.leases.fail(claim, outcome)
        else:
            self.controller.publish(claim, outcome)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with _served(tmp_path / "state") as service:
        yield service


@pytest.fixture
def draining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that is about to end for as long as the test runs: it answers, and ends every stream at once."""
    begun = Draining()
    begun.begin()
    monkeypatch.setattr(module, "Draining", lambda: begun)
    with _served(tmp_path / "draining") as service:
        yield service


@contextmanager
def _served(state_dir: Path) -> Iterator[Service]:
    settings = Settings(state_dir=state_dir, port=0, allow=["/data"])
    with embedded(settings, controller=None) as running, acting_controller(settings) as controller:
        yield Service(running.url, running.token, settings.state_dir, controller)
