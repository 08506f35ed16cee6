"""Whose turn it is: which of the audits that may be claimed comes next.

The tenant with the fewest audits at work comes first, then the higher priority, then the older audit. A tenant that has
as many at work as it may waits. Claims are made one at a time, so that each sees all that were made before it: the
order and the limit are exact, however many controllers ask at once.
"""

from collections import Counter
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, literal, or_, select

from peelbound.service.database.deadlines import in_time
from peelbound.service.database.tables import AuditRow
from peelbound.service.schemas.record import AuditState

AT_WORK = [state for state in AuditState if state.at_work]

_TURN = 0x7065656C
"""Key of the advisory lock under which claims are made."""


def take_turn(connection: Connection) -> None:
    """Wait until nobody else claims; the turn ends with the transaction. SQLite has one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_TURN)))


def at_work(connection: Connection, now: datetime) -> dict[str, int]:
    """How many audits each tenant has on controllers whose lease holds; tenants without any are left out."""
    # Counted here, a few rows of an index: SQLite would look at every audit to group by tenant.
    return Counter(
        connection.scalars(select(AuditRow.tenant).where(AuditRow.claimable_at > now, AuditRow.state.in_(AT_WORK)))
    )


def _may_be_claimed(now: datetime, working: dict[str, int], limit: int | None) -> ColumnElement[bool]:
    """Whether an audit is due, in time, and its tenant has fewer at work than it may."""
    full = [tenant for tenant, count in working.items() if limit is not None and count >= limit]
    free = and_(in_time(now), AuditRow.tenant.not_in(full)) if full else in_time(now)
    # An abandoned audit that is to be cancelled only needs its end written.
    return and_(AuditRow.claimable_at <= now, or_(free, AuditRow.state == AuditState.CANCELLING))


def is_there_work(connection: Connection, now: datetime, limit: int | None) -> bool:
    """Whether `next_audit` is worth a turn: most looks of idle controllers find nothing, and need not wait for each
    other to learn that."""
    working = {} if limit is None else at_work(connection, now)
    return connection.scalar(select(literal(1)).where(_may_be_claimed(now, working, limit)).limit(1)) is not None


def oldest_claimable(connection: Connection, now: datetime, limit: int | None) -> datetime | None:
    """Since when the one of those that `next_audit` asks for could be claimed that waits longest; None without one."""
    working = {} if limit is None else at_work(connection, now)
    return connection.scalar(select(func.min(AuditRow.claimable_at)).where(_may_be_claimed(now, working, limit)))


def next_audit(now: datetime, working: dict[str, int], limit: int | None) -> Select[*tuple[Any, ...]]:
    """The query for the audit whose turn it is, locked; audits that another transaction has locked are passed over.

    Args:
        now: audits that are claimable by then are asked for.
        working: `at_work`.
        limit: how many audits of one tenant may be at work; None is no limit.
    """
    query = (
        select(
            AuditRow.tenant,
            AuditRow.id,
            AuditRow.state,
            AuditRow.attempt,
            AuditRow.failures,
            AuditRow.lease_owner,
        )
        .where(_may_be_claimed(now, working, limit))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    busy = case(working, value=AuditRow.tenant, else_=0) if working else literal(0)
    return query.order_by(busy, AuditRow.priority.desc(), AuditRow.id)
