"""What a controller needs of the database: claim audits, keep them while it works, and hand in what came out.

A claim is a lease with a fence. The lease is a time on the audit's row that heartbeats push on; once it has passed, any
controller may take the audit. The fence is `attempt`, which each claim increases: every later statement of the claimant
names its attempt, so one that was taken over changes zero rows, is told so, and must discard its work.

A request to cancel wins over everything that has not been written yet: `succeed`, `fail`, `retry` and `hand_back` find
the audit cancelling and end it as cancelled instead.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, Engine, Row, Text, delete, func, select, type_coerce, update

from peelbound.service.database import unreadable
from peelbound.service.database.deadlines import end_overdue, overdue
from peelbound.service.database.engine import Clock, database_clock, reading, writing
from peelbound.service.database.tables import AuditRow, ControllerRow, RequestRow
from peelbound.service.database.transitions import advance, record
from peelbound.service.database.turns import (
    AT_WORK,
    at_work,
    is_there_work,
    next_audit,
    oldest_claimable,
    served,
    take_turn,
)
from peelbound.service.database.upsert import conflicting_insert
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.record import AuditState, EventType, Progress
from peelbound.service.schemas.report import Summary
from peelbound.service.schemas.request import AuditRequest

log = logging.getLogger(__name__)

_FORGET_CONTROLLER_AFTER = timedelta(days=1)
_LONGEST_BACKOFF_SECONDS = 300.0


@dataclass(frozen=True)
class Held:
    """Which audit a controller holds; `attempt` is the fence."""

    audit_id: str
    tenant: str
    attempt: int
    owner: str


@dataclass(frozen=True)
class Claim(Held):
    """An audit that a controller holds, and what is asked for."""

    request: AuditRequest
    taken_over: bool = False
    """Whether another controller had it, whose lease ran out."""
    request_id: str | None = None
    """Of the HTTP request that submitted it."""
    traceparent: str | None = None
    """The span that submitted it."""


class Lease(StrEnum):
    """What a heartbeat learns."""

    HELD = "held"
    CANCELLING = "cancelling"
    """Still held, but to be stopped: end it with `Leases.cancelled`."""
    LOST = "lost"
    """Another controller took it, or it has ended: discard everything."""


@dataclass(frozen=True)
class Health:
    """Whether work moves."""

    oldest_claimable_seconds: float | None
    """How long the longest-waiting audit has been claimable; None when none is, or those that are wait for their
    tenant's turn."""
    controller_seen_seconds: float | None
    """Since the last sign of life of any controller; None when none ever gave one."""
    controllers: int
    """How many gave one within a lease's time."""


class Leases:
    """Claims on audits, of all tenants.

    Args:
        engine: the database.
        lease_seconds: how long a claim lasts without a heartbeat.
        max_attempts: an audit fails when infrastructure has ended this many of its attempts.
        tenant_running: how many audits of one tenant may be at work at once; None is no limit.
        clock: the time by which leases run out.
        chance: a number in [0, 1), drawn for each backoff.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        lease_seconds: float,
        max_attempts: int,
        tenant_running: int | None = None,
        clock: Clock = database_clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.lease_seconds = lease_seconds
        self._engine = engine
        self._lease = timedelta(seconds=lease_seconds)
        self._max_attempts = max_attempts
        self._tenant_running = tenant_running
        self._clock = clock
        self._chance = chance

    def claim(self, owner: str) -> Claim | None:
        """Take the audit whose turn it is of those that are queued and due, or whose lease ran out; None without one.

        On the way, abandoned audits that nobody can continue are ended: cancelling ones as cancelled, and those whose
        attempts are used up as failed. Those whose request this version cannot read are put off.
        """
        with reading(self._engine) as connection:  # most looks find nothing; on SQLite a claim would hold up writers
            if not is_there_work(connection, self._clock(connection), self._tenant_running):
                return None
        while True:
            with writing(self._engine) as connection:
                take_turn(connection)
                now = self._clock(connection)
                query = next_audit(now, at_work(connection, now), self._tenant_running)
                found = connection.execute(query).one_or_none()
                if found is None:
                    return None
                taken = self._take(connection, now, found, owner)
            if taken is not None and (claim := self._read(*taken, taken_over=found.state is AuditState.RUNNING)):
                return claim

    def _take(
        self, connection: Connection, now: datetime, found: Row[*tuple[Any, ...]], owner: str
    ) -> tuple[Held, Row[*tuple[Any, ...]]] | None:
        """Claim the audit whose row is locked here, and read what is asked for; None where it could only be ended."""
        attempt: int = found.attempt
        guard = (AuditRow.tenant == found.tenant, AuditRow.id == found.id, AuditRow.attempt == attempt)
        if found.state is AuditState.CANCELLING:
            advance(connection, guard, now, AuditState.CANCELLED, attempt)
            return None
        change: dict[str, Any] = {
            "lease_owner": owner,
            "claimable_at": now + self._lease,
            "claimed_at": now,
            "started_at": func.coalesce(AuditRow.started_at, now),
        }
        if found.state is AuditState.RUNNING:
            failures: int = found.failures + 1
            problem = self._lease_lost(found.lease_owner, attempt, failures)
            if failures >= self._max_attempts:
                advance(connection, guard, now, AuditState.FAILED, attempt, problem=problem, failures=failures)
                return None
            change |= {"event": EventType.RETRY, "problem": problem, "failures": failures}
        advance(connection, guard, now, AuditState.RUNNING, attempt + 1, **change)
        served(connection, found.tenant, now)
        request = connection.execute(
            select(
                type_coerce(RequestRow.body, Text).label("body"), RequestRow.request_id, RequestRow.traceparent
            ).where(RequestRow.tenant == found.tenant, RequestRow.audit_id == found.id)
        ).one()
        return Held(found.id, found.tenant, attempt + 1, owner), request

    def _read(self, held: Held, found: Row[*tuple[Any, ...]], *, taken_over: bool) -> Claim | None:
        """The claim with what is asked for; None where this version cannot read that, and puts the audit off.

        It is claimed by then: what goes wrong here leaves no audit next in line for the next controller.
        """
        try:
            request = AuditRequest.model_validate_json(found.body)  # refuses fields that it does not know
        except ValidationError as error:
            self._put_off(held, error)
            return None
        return Claim(
            held.audit_id,
            held.tenant,
            held.attempt,
            held.owner,
            request,
            taken_over=taken_over,
            request_id=found.request_id,
            traceparent=found.traceparent,
        )

    def _put_off(self, held: Held, error: ValidationError) -> None:
        """Leave the audit to a controller that can read its request; fail it when none has come for too long."""
        with writing(self._engine) as connection:
            last = connection.scalar(select(AuditRow.problem).where(*_fence(held)).with_for_update())
            tries = unreadable.next_try(last, held.attempt)
            problem = unreadable.as_problem(error, held.attempt, tries)
            log.warning("audit %s attempt %d: %s", held.audit_id, held.attempt, problem.detail)
            if tries >= unreadable.TRIES:
                self._end(connection, held, AuditState.FAILED, problem=problem)
                return
            due = self._clock(connection) + timedelta(seconds=unreadable.AGAIN_SECONDS)
            change = {"event": EventType.RETRY, "claimable_at": due, "lease_owner": None}
            self._end(connection, held, AuditState.QUEUED, problem=problem, **change)

    def _lease_lost(self, owner: str | None, attempt: int, failures: int) -> Problem:
        return Problem.make(
            "lease-lost",
            "The controller was lost",
            503,
            f"Controller {owner} gave no sign of life for {self._lease.total_seconds():g} s during attempt {attempt}; "
            f"infrastructure has ended {failures} of at most {self._max_attempts} attempts.",
            "Look at the controller's log: it was killed (out of memory?) or cut off from the database. Submit the "
            "audit again afterwards; what it had solved is not solved again.",
        )

    def heartbeat(self, claim: Claim) -> Lease:
        """Extend the lease from now on."""
        with writing(self._engine) as connection:
            state = connection.scalar(
                update(AuditRow)
                .where(*_fence(claim), AuditRow.state.in_(AT_WORK))
                .values(claimable_at=self._clock(connection) + self._lease)
                .returning(AuditRow.state)
            )
        match state:
            case None:
                return Lease.LOST
            case AuditState.CANCELLING:
                return Lease.CANCELLING
            case _:
                return Lease.HELD

    def progress(self, claim: Claim, progress: Progress) -> bool:
        """Record how far the audit is; False when the claim is lost."""
        with writing(self._engine) as connection:
            return record(
                connection,
                (*_fence(claim), AuditRow.state.in_(AT_WORK)),
                self._clock(connection),
                EventType.PROGRESS,
                progress.model_dump(mode="json"),
                progress=progress,
            )

    def succeed(self, claim: Claim, manifest_key: str, summary: Summary) -> bool:
        """Publish the results: from here on, and only so, they are the audit's.

        True when this claim's manifest is the published one, also when an earlier call whose COMMIT was in doubt did
        it. False when the claim is lost, the audit was cancelled or its time is over.
        """
        with writing(self._engine) as connection:
            # Locked first: the time counts that it is when nobody can hold us up any more.
            connection.execute(select(AuditRow.id).where(*_same_attempt(claim)).with_for_update())
            end_overdue(connection, self._clock(connection), *_same_attempt(claim))
            outcome = self._end(connection, claim, AuditState.SUCCEEDED, manifest_key=manifest_key, summary=summary)
            if outcome is not None:
                return outcome is AuditState.SUCCEEDED
            published = connection.scalar(
                select(AuditRow.id).where(
                    *_same_attempt(claim),
                    AuditRow.state == AuditState.SUCCEEDED,
                    AuditRow.manifest_key == manifest_key,
                )
            )
        return published is not None

    def fail(self, claim: Claim, problem: Problem) -> bool:
        """End the audit for a reason that trying again would not mend; False when the claim is lost."""
        with writing(self._engine) as connection:
            return self._end(connection, claim, AuditState.FAILED, problem=problem) is not None

    def retry(self, claim: Claim, problem: Problem, delay_seconds: float) -> AuditState | None:
        """Give the audit back after an infrastructure failure, to be claimed again after a backoff.

        The backoff begins with `delay_seconds`, doubles with each failure and ends at 300 s; up to half of it is left
        out by chance, so that audits that failed together do not come back together.

        Answers the state it is in now: queued, or failed when this was the last attempt, or cancelled. None when the
        claim is lost.
        """
        with writing(self._engine) as connection:
            failures = connection.scalar(select(AuditRow.failures).where(*_fence(claim)).with_for_update())
            if failures is None:
                return None
            change: dict[str, Any] = {"problem": problem, "failures": failures + 1}
            if failures + 1 >= self._max_attempts:
                return self._end(connection, claim, AuditState.FAILED, **change)
            due = self._clock(connection) + self._backoff(delay_seconds, failures)
            change |= {"event": EventType.RETRY, "claimable_at": due, "lease_owner": None}
            return self._end(connection, claim, AuditState.QUEUED, **change)

    def _backoff(self, base: float, failures: int) -> timedelta:
        doubled = min(base, _LONGEST_BACKOFF_SECONDS) * 2.0 ** min(failures, 64)  # bounded: floats overflow
        return timedelta(seconds=min(doubled, _LONGEST_BACKOFF_SECONDS) * (1 - self._chance() / 2))

    def cancelled(self, claim: Claim) -> bool:
        """End an audit that was to be cancelled; False when the claim is lost or nobody asked for it."""
        with writing(self._engine) as connection:
            return self._end_cancelled(connection, claim)

    def hand_back(self, claim: Claim) -> bool:
        """Give the audit back because this controller shuts down: at once claimable, and no failure is counted.

        False when the claim is lost.
        """
        with writing(self._engine) as connection:
            outcome = self._end(
                connection, claim, AuditState.QUEUED, claimable_at=self._clock(connection), lease_owner=None
            )
        return outcome is not None

    def _end(self, connection: Connection, claim: Held, state: AuditState, **change: Any) -> AuditState | None:
        """End the claim by bringing the running audit to `state`, or a cancelling one to cancelled."""
        running = (*_fence(claim), AuditRow.state == AuditState.RUNNING)
        if advance(connection, running, self._clock(connection), state, claim.attempt, **change):
            return state
        return AuditState.CANCELLED if self._end_cancelled(connection, claim) else None

    def _end_cancelled(self, connection: Connection, claim: Held) -> bool:
        cancelling = (*_fence(claim), AuditRow.state == AuditState.CANCELLING)
        return advance(connection, cancelling, self._clock(connection), AuditState.CANCELLED, claim.attempt)

    def beat(self, owner: str) -> None:
        """Note that this controller is alive, also while it has nothing to do."""
        with writing(self._engine) as connection:
            now = self._clock(connection)
            connection.execute(
                conflicting_insert(connection, ControllerRow)
                .values(owner=owner, seen_at=now)
                .on_conflict_do_update(index_elements=[ControllerRow.owner], set_={"seen_at": now})
            )
            # Each start of a controller has a name of its own; without this the table would grow for ever.
            connection.execute(delete(ControllerRow).where(ControllerRow.seen_at < now - _FORGET_CONTROLLER_AFTER))

    def end_overdue(self) -> int:
        """Fail the audits whose deadline has passed, waiting or at work; how many there were."""
        with reading(self._engine) as connection:  # mostly there are none; on SQLite a writer would hold up others
            if connection.execute(overdue(self._clock(connection))).first() is None:
                return 0
        with writing(self._engine) as connection:
            return end_overdue(connection, self._clock(connection))

    def health(self) -> Health:
        """Since when work waits, and since when no controller was seen."""
        with reading(self._engine) as connection:
            now = self._clock(connection)
            waiting_since = oldest_claimable(connection, now, self._tenant_running)
            seen_at = connection.scalar(select(func.max(ControllerRow.seen_at)))
            alive = select(func.count()).where(ControllerRow.seen_at > now - self._lease)
            controllers = connection.scalars(alive).one()
        return Health(
            oldest_claimable_seconds=(now - waiting_since).total_seconds() if waiting_since else None,
            controller_seen_seconds=(now - seen_at).total_seconds() if seen_at else None,
            controllers=controllers,
        )

    def at_work(self) -> dict[str, int]:
        """How many audits each tenant has at work; tenants without any are left out."""
        with reading(self._engine) as connection:
            return at_work(connection, self._clock(connection))

    def others_have_workers(self, claim: Held) -> bool:
        """Whether another audit at work got its first worker in this attempt: it has planned what there is to do."""
        with reading(self._engine) as connection:
            found = connection.scalars(
                select(AuditRow.progress).where(
                    AuditRow.claimable_at > self._clock(connection),
                    AuditRow.state.in_(AT_WORK),
                    (AuditRow.tenant != claim.tenant) | (AuditRow.id != claim.audit_id),
                )
            ).all()
        return any(progress is not None and progress.problems_planned > 0 for progress in found)

    def count_by_state(self) -> dict[AuditState, int]:
        """How many audits there are in each state, over all tenants."""
        with reading(self._engine) as connection:
            counted = select(AuditRow.state, func.count().label("audits")).group_by(AuditRow.state)
            rows = connection.execute(counted).all()
        return dict.fromkeys(AuditState, 0) | {row.state: row.audits for row in rows}


def _same_attempt(claim: Held) -> tuple[ColumnElement[bool], ...]:
    return AuditRow.tenant == claim.tenant, AuditRow.id == claim.audit_id, AuditRow.attempt == claim.attempt


def _fence(claim: Held) -> tuple[ColumnElement[bool], ...]:
    return (*_same_attempt(claim), AuditRow.lease_owner == claim.owner)
