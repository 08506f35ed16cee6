"""Deadlines: an audit that has not ended when its time is over is failed, whoever holds it or nobody.

The end is written on the audit's row, as any other, so its controller needs not agree: the next heartbeat tells it that
the audit is no longer its own. Times are the database's.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select

from peelbound.service.database.tables import AuditRow
from peelbound.service.database.transitions import advance
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.record import AuditState

_OPEN = [AuditState.QUEUED, AuditState.RUNNING]  # one that is being cancelled ends as cancelled
_AT_ONCE = 100


def deadline(created_at: datetime, seconds: float | None) -> datetime | None:
    """When an audit that was created then is to have ended."""
    return None if seconds is None else created_at + timedelta(seconds=seconds)


def in_time(now: datetime) -> ColumnElement[bool]:
    """Whether an audit's time is not over."""
    return AuditRow.deadline_at.is_(None) | (AuditRow.deadline_at > now)


def overdue(now: datetime) -> Select[*tuple[Any, ...]]:
    """The audits whose time is over, some of them."""
    return (
        select(
            AuditRow.tenant, AuditRow.id, AuditRow.attempt, AuditRow.state, AuditRow.created_at, AuditRow.deadline_at
        )
        .where(AuditRow.deadline_at <= now, AuditRow.state.in_(_OPEN))
        .limit(_AT_ONCE)
    )


def end_overdue(connection: Connection, now: datetime, *which: ColumnElement[bool]) -> int:
    """Fail the audits whose time is over (of those that `which` names, if it does); how many there were.

    Audits that another transaction has locked are passed over until the next time: to be sure of one, hold its lock.
    """
    found = connection.execute(overdue(now).where(*which).with_for_update(skip_locked=True)).all()
    for audit in found:
        guard = (AuditRow.tenant == audit.tenant, AuditRow.id == audit.id, AuditRow.attempt == audit.attempt)
        advance(connection, guard, now, AuditState.FAILED, audit.attempt, problem=_exceeded(audit))
    return len(found)


def _exceeded(audit: Any) -> Problem:
    had = (audit.deadline_at - audit.created_at).total_seconds()
    where = "waiting for a controller" if audit.state is AuditState.QUEUED else f"at work (attempt {audit.attempt})"
    return Problem.make(
        "deadline-exceeded",
        "The audit did not end in time",
        408,
        f"The audit was given {had:g} s from its submission and was still {where} when they were over.",
        "Give it longer, a higher priority or less to do, and submit it again: what it had solved is not solved again.",
        "/deadline_seconds",
    )
