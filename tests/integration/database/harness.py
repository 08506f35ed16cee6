"""Audits and leases on a database whose clock the test can push."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Barrier, Thread
from typing import TypeVar

from sqlalchemy import Connection, Engine

from peelbound.service.database.audits import Audits
from peelbound.service.database.engine import database_clock
from peelbound.service.database.leases import Claim, Leases
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.record import Progress
from peelbound.service.schemas.report import CheckpointVerdict, CloudSummary, Summary
from peelbound.service.schemas.request import AuditRequest, Calibration
from tests.waiting import DEADLINE_SECONDS

T = TypeVar("T")

LEASE_SECONDS = 30.0
MAX_ATTEMPTS = 3
PROBLEM = Problem.make("storage-unavailable", "Object storage is not available", 503, "answered 503", "wait")
SUMMARY = Summary(
    status=CheckpointVerdict.HOLDS,
    headline="holds",
    cloud=CloudSummary(trained_fit=2.0, trained_check=2.1, head_control_fit=2.0, head_control_check=2.1),
    inert_blocks=[],
    lagging_blocks=[],
    best_block=None,
    best_block_gain=None,
    smallest_visible_effect=0.004,
)


@dataclass
class PushedClock:
    """The database's clock, ahead by as much as the test says."""

    ahead: timedelta = timedelta()

    def __call__(self, connection: Connection) -> datetime:
        return database_clock(connection) + self.ahead

    def push(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@dataclass
class Service:
    """Both ends of the queue on one database and one clock."""

    engine: Engine
    clock: PushedClock = field(default_factory=PushedClock)

    def __post_init__(self) -> None:
        self.audits = Audits(self.engine, clock=self.clock)
        self.leases = self.leases_with(MAX_ATTEMPTS)

    def leases_with(self, max_attempts: int, chance: float = 0.0) -> Leases:
        """Another controller's end of the queue, whose backoffs are not left to chance."""
        return Leases(
            self.engine,
            lease_seconds=LEASE_SECONDS,
            max_attempts=max_attempts,
            clock=self.clock,
            chance=lambda: chance,
        )

    def submit(self, tenant: str = "acme", **fields: object) -> str:
        record, created = self.audits.submit(tenant, a_request(**fields), None)
        assert created
        return record.id

    def claim(self, owner: str = "one") -> Claim:
        claim = self.leases.claim(owner)
        assert claim is not None
        return claim

    def expire(self) -> None:
        self.clock.push(LEASE_SECONDS + 1)

    def events(self, audit_id: str, tenant: str = "acme") -> list[tuple[str, str | None]]:
        return [(event.type.value, event.data.get("state")) for event in self.audits.events(tenant, audit_id)]


def a_request(**fields: object) -> AuditRequest:
    defaults = {"checkpoint": "file:///models/one", "calibration": Calibration(texts=["a text"])}
    return AuditRequest.model_validate(defaults | fields)


def some_progress(done: int = 1) -> Progress:
    return Progress(
        phase="block_references", problems_done=done, problems_planned=100, work_done=done, work_planned=100
    )


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Run the calls in a thread each, begun together; their results in the calls' order, or the first exception."""
    barrier = Barrier(len(calls))
    outcomes: list[T | BaseException] = [RuntimeError("not run")] * len(calls)

    def run(index: int, call: Callable[[], T]) -> None:
        barrier.wait(timeout=DEADLINE_SECONDS)
        try:
            outcomes[index] = call()
        except BaseException as error:  # raised again in the test's own thread, below
            outcomes[index] = error

    threads = [Thread(target=run, args=(index, call)) for index, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=DEADLINE_SECONDS)
    results: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results
