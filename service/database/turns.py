"""Whose turn it is: which of the audits that may be claimed comes next.

The tenant with the fewest audits at work comes first, of those the one whose last claim was longest ago; then the
higher priority, then the older audit. So a tenant waits for one audit of each other tenant at most, though there be a
single controller, and priority orders what is the tenant's own. A tenant that has as many at work as it may waits.
Claims are made one at a time, so that each sees all that were made before it: the order and the limit are exact,
however many controllers ask at once.
"""

from collections import Counter
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, literal, or_, select

from peelbound.service.database.deadlines import in_time
from peelbound.service.database.tables import AuditRow, TurnRow
from peelbound.service.database.upsert import conflicting_insert
from peelbound.service.schemas.record import AuditState

AT_WORK = [state for state in AuditState if state.at_work]

_TURN = 0x7065656C
"""Key of the advisory lock under which claims are made."""

_LOOKED_AT = 32
"""So many of those that come next may be locked by others, for a moment each, before a claim finds nothing."""


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
    may_be_claimed = _may_be_claimed(now, working, limit)
    busy = case(working, value=AuditRow.tenant, else_=0) if working else literal(0)
    # Chosen first and locked then: PostgreSQL sorts all rows that are to be locked, and cannot stop at the first.
    first = (
        select(AuditRow.tenant, AuditRow.id, AuditRow.priority, busy.label("busy"), TurnRow.served_at)
        .outerjoin(TurnRow, TurnRow.tenant == AuditRow.tenant)
        .where(may_be_claimed)
        .order_by(busy, TurnRow.served_at.nulls_first(), AuditRow.priority.desc(), AuditRow.id)
        .limit(_LOOKED_AT)
        .subquery()
    )
    return (
        select(
            AuditRow.tenant,
            AuditRow.id,
            AuditRow.state,
            AuditRow.attempt,
            AuditRow.failures,
            AuditRow.lease_owner,
        )
        .join(first, and_(AuditRow.tenant == first.c.tenant, AuditRow.id == first.c.id))
        .where(may_be_claimed)
        .order_by(first.c.busy, first.c.served_at.nulls_first(), first.c.priority.desc(), first.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=AuditRow)
    )


def served(connection: Connection, tenant: str, now: datetime) -> None:
    """Note that the tenant had its turn."""
    connection.execute(
        conflicting_insert(connection, TurnRow)
        .values(tenant=tenant, served_at=now)
        .on_conflict_do_update(index_elements=[TurnRow.tenant], set_={"served_at": now})
    )
