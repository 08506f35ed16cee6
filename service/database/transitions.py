"""The one way an audit's row changes: a guarded UPDATE that also counts and writes the event, in one transaction.

The end of an audit also writes its messages to the tenant's webhooks, in the same transaction.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, update

from peelbound.service.database.announcements import announce_end
from peelbound.service.database.tables import AuditRow, EventRow
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.record import AuditState, EventType

Guard = Sequence[ColumnElement[bool]]
"""What must still be true of the audit's row; it must name one audit."""


def record(
    connection: Connection, guard: Guard, now: datetime, event: EventType, data: dict[str, Any], **values: Any
) -> bool:
    """Set `values` and write the event if the guard holds; False, and nothing is changed, if it does not.

    The number comes from the audit's own row, so that whoever reads events in order misses none: a plain sequence would
    let number 8 be seen before the transaction with number 7 commits.
    """
    return _changed(connection, guard, now, event, data, values) is not None


def _changed(
    connection: Connection,
    guard: Guard,
    now: datetime,
    event: EventType,
    data: dict[str, Any],
    values: dict[str, Any],
) -> Row[*tuple[Any, ...]] | None:
    changed = connection.execute(
        update(AuditRow)
        .where(*guard)
        .values(event_count=AuditRow.event_count + 1, **values)
        .returning(AuditRow.tenant, AuditRow.id, AuditRow.event_count)
    ).one_or_none()
    if changed is not None:
        append(connection, changed.tenant, changed.id, changed.event_count, now, event, data)
    return changed


def advance(
    connection: Connection,
    guard: Guard,
    now: datetime,
    state: AuditState,
    attempt: int,
    *,
    event: EventType = EventType.STATE,
    problem: Problem | None = None,
    **values: Any,
) -> bool:
    """Bring the audit to `state`, in attempt `attempt`, if the guard holds; the event says both, and the problem.

    Whatever is not at work afterwards has no time of a claim.
    """
    data: dict[str, Any] = {"state": state, "attempt": attempt}
    if problem is not None:
        data["problem"] = problem.model_dump(mode="json", exclude_none=True)
    if problem is not None or state is AuditState.SUCCEEDED:
        values["problem"] = problem  # Success makes what an earlier attempt failed of moot.
    if state.ended:
        values |= {"ended_at": now, "claimable_at": None, "lease_owner": None, "deadline_at": None}
    if not state.at_work:
        values["claimed_at"] = None
    changed = _changed(connection, guard, now, event, data, values | {"state": state, "attempt": attempt})
    if changed is not None and state.ended:
        announce_end(connection, changed.tenant, changed.id)
    return changed is not None


def append(
    connection: Connection,
    tenant: str,
    audit_id: str,
    number: int,
    now: datetime,
    event: EventType,
    data: dict[str, Any],
) -> None:
    """Write an event whose number the caller took from the audit's row in this transaction."""
    connection.execute(
        insert(EventRow).values(tenant=tenant, audit_id=audit_id, number=number, at=now, type=event, data=data)
    )
