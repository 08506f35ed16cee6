"""What collecting results needs of the database, and why it never takes one away from a running audit.

A result (an object by content, or two) is *condemned* when no audit that exists has used it: a row with its name. A
second transaction, begun after the first has committed, stamps the row with the time since when it is so. The result
may be deleted once

* that time lies a grace period back,
* no attempt is at work that was claimed before it, and
* no audit that exists has used the result, looked up after the attempts.

An attempt reads the names of the condemned when it begins, and before it looks for a result that is among them it
deletes the row (`spare`). So an attempt that was claimed after the stamp knows the row and spares the result. One that
was claimed before may not know it, and nothing is deleted until it has ended; if it published, its uses are found.
Deletion holds the row's lock from before the objects go until the row is gone: whoever wants to spare it waits, and
then finds the result absent and makes it anew. A row that was spared and condemned again carries another time, which
deletion compares.

An attempt that was taken over is not waited for: nothing that it does counts.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, Engine, Select, delete, func, select, text, union, update

from peelbound.service.database import log
from peelbound.service.database.engine import BUSY_SECONDS, Clock, database_clock, reading, writing
from peelbound.service.database.log import Actor
from peelbound.service.database.tables import AuditRow, CondemnedRow, TenantRow
from peelbound.service.database.turns import AT_WORK
from peelbound.service.database.upsert import conflicting_insert
from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.tenant import LONGEST_KEPT_DAYS

FOR_EVER = 0
"""Seconds to keep a tenant's audits, as its own setting says that they never expire."""
_AT_ONCE = 500


class Condemned(NamedTuple):
    """A result that may be deleted, as far as its time and the attempts at work go."""

    name: str
    since: datetime


class Retention:
    """What is kept, for all tenants.

    Args:
        engine: the database.
        clock: the time by which things expire.
    """

    def __init__(self, engine: Engine, *, clock: Clock = database_clock) -> None:
        self._engine = engine
        self._clock = clock

    # Whose turn it is

    def tenants(self) -> list[str]:
        """Every tenant that has or had an audit, sorted."""
        known = union(_with_audits(), select(TenantRow.tenant), select(CondemnedRow.tenant).distinct())
        with reading(self._engine) as connection:
            return sorted(connection.scalars(known))

    def claim(self, every: timedelta) -> str | None:
        """The tenant whose collection has been due for longest, which is due again after `every`; None without one.

        No other gets it meanwhile. That is a courtesy that saves work: two that collect one tenant at once do no harm.
        """
        with writing(self._engine) as connection:
            now = self._clock(connection)
            if taken := _take_tenant(connection, now, every):
                return taken
            _note_new_tenants(connection)
            return _take_tenant(connection, now, every)

    def now(self) -> datetime:
        """The database's time."""
        with reading(self._engine) as connection:
            return self._clock(connection)

    # Audits

    def keep(self, tenant: str, seconds: int | None, *, by: Actor | None = None) -> None:
        """Set how long the tenant's audits are kept after their end; `FOR_EVER`, or None for the service's default."""
        with writing(self._engine) as connection:
            log.write(connection, tenant, by, self._clock(connection), "tenant.keep", tenant)
            connection.execute(
                conflicting_insert(connection, TenantRow)
                .values(tenant=tenant, keep_seconds=seconds)
                .on_conflict_do_update(index_elements=[TenantRow.tenant], set_={"keep_seconds": seconds})
            )

    def kept(self, tenant: str) -> int | None:
        """What `keep` set; None for the service's default."""
        with reading(self._engine) as connection:
            return connection.scalar(select(TenantRow.keep_seconds).where(TenantRow.tenant == tenant))

    def expired(self, tenant: str, default_seconds: float | None) -> list[str]:
        """The audits that have ended longer ago than they are kept."""
        own = self.kept(tenant)
        seconds = default_seconds if own is None else own
        if not seconds:
            return []
        with reading(self._engine) as connection:
            # No more than can be set now: earlier versions took times that lead out of the calendar.
            kept = timedelta(seconds=min(seconds, LONGEST_KEPT_DAYS * 86_400))
            ended_before = self._clock(connection) - kept
            return list(
                connection.scalars(
                    select(AuditRow.id)
                    .where(AuditRow.tenant == tenant, AuditRow.ended_at <= ended_before)
                    .order_by(AuditRow.id)
                )
            )

    def published(self, tenant: str) -> list[str]:
        """The keys of the manifests of all the tenant's audits."""
        with reading(self._engine) as connection:
            keys = connection.scalars(
                select(AuditRow.manifest_key).where(AuditRow.tenant == tenant, AuditRow.state == AuditState.SUCCEEDED)
            )
            return [key for key in keys if key is not None]

    def standing(self, tenant: str, audit_ids: Iterable[str]) -> dict[str, tuple[bool, str | None]]:
        """Whether each audit has ended, and its manifest's key; those that do not exist are left out."""
        found: dict[str, tuple[bool, str | None]] = {}
        ids = list(audit_ids)
        for start in range(0, len(ids), _AT_ONCE):
            query = select(AuditRow.id, AuditRow.state, AuditRow.manifest_key).where(
                AuditRow.tenant == tenant, AuditRow.id.in_(ids[start : start + _AT_ONCE])
            )
            with reading(self._engine) as connection:
                found |= {row.id: (row.state.ended, row.manifest_key) for row in connection.execute(query)}
        return found

    # Results

    def condemned(self, tenant: str) -> set[str]:
        """The names of all condemned results, also of those that are not stamped yet."""
        with reading(self._engine) as connection:
            return set(connection.scalars(select(CondemnedRow.name).where(CondemnedRow.tenant == tenant)))

    def spare(self, tenant: str, name: str) -> None:
        """Condemn a result no longer. After this it is absent, or stays until it is condemned again.

        Raises:
            DatabaseUnavailable: also when it is being deleted and that takes too long.
        """
        with writing(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'"))
            connection.execute(delete(CondemnedRow).where(CondemnedRow.tenant == tenant, CondemnedRow.name == name))

    def condemn(self, tenant: str, names: Iterable[str]) -> None:
        """Condemn results; `stamp` is to be called afterwards."""
        rows = [{"tenant": tenant, "name": name} for name in sorted(names)]
        for start in range(0, len(rows), _AT_ONCE):
            with writing(self._engine) as connection:
                connection.execute(
                    conflicting_insert(connection, CondemnedRow).on_conflict_do_nothing(),
                    rows[start : start + _AT_ONCE],
                )

    def stamp(self, tenant: str) -> None:
        """Write down since when what was condemned is so: since now, when every row that is seen has been committed."""
        with writing(self._engine) as connection:
            unstamped = CondemnedRow.tenant == tenant, CondemnedRow.since.is_(None)
            seen = select(CondemnedRow.name).where(*unstamped).with_for_update()
            names = connection.scalars(seen).all()
            now = self._clock(connection)  # after all of them were seen to be committed
            for start in range(0, len(names), _AT_ONCE):
                some = CondemnedRow.name.in_(names[start : start + _AT_ONCE])
                connection.execute(update(CondemnedRow).where(*unstamped, some).values(since=now))

    def due(self, tenant: str, grace: timedelta) -> list[Condemned]:
        """The results whose grace is over and that no attempt at work may have found without knowing of it."""
        with reading(self._engine) as connection:
            limit = self._clock(connection) - grace
            at_work = AuditRow.tenant == tenant, AuditRow.state.in_(AT_WORK)
            unknown = select(func.count()).where(*at_work, AuditRow.claimed_at.is_(None))
            if connection.scalars(unknown).one():  # an earlier version's controller holds it, and spares nothing
                return []
            oldest = connection.scalar(select(func.min(AuditRow.claimed_at)).where(*at_work))
            query = select(CondemnedRow.name, CondemnedRow.since).where(
                CondemnedRow.tenant == tenant, CondemnedRow.since <= limit
            )
            if oldest is not None:
                query = query.where(CondemnedRow.since < oldest)
            return [Condemned(row.name, row.since) for row in connection.execute(query.order_by(CondemnedRow.name))]

    @contextmanager
    def deleting(self, tenant: str, condemned: Condemned) -> Iterator[bool]:
        """Hold a condemned result while its objects are deleted; False where it has been spared since.

        Whoever spares it waits. When the block raises, it stays condemned.
        """
        which = (
            CondemnedRow.tenant == tenant,
            CondemnedRow.name == condemned.name,
            CondemnedRow.since == condemned.since,
        )
        with writing(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                # A slow store must not cost us the lock while objects are being deleted: longer than all of its tries
                # together. And a machine that is gone must not keep it: the server notices within a minute.
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '30min'"))
                connection.execute(text("SET LOCAL tcp_keepalives_idle = 30"))
                connection.execute(text("SET LOCAL tcp_keepalives_interval = 10"))
                connection.execute(text("SET LOCAL tcp_keepalives_count = 3"))
            held = connection.scalar(select(CondemnedRow.name).where(*which).with_for_update())
            yield held is not None
            connection.execute(delete(CondemnedRow).where(*which))


def _take_tenant(connection: Connection, now: datetime, every: timedelta) -> str | None:
    due = (
        select(TenantRow.tenant)
        .where(TenantRow.collect_at.is_(None) | (TenantRow.collect_at <= now))
        .order_by(TenantRow.collect_at.nulls_first(), TenantRow.tenant)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return connection.scalar(
        update(TenantRow)
        .where(TenantRow.tenant == due.scalar_subquery())
        .values(collect_at=now + every)
        .returning(TenantRow.tenant)
    )


def _note_new_tenants(connection: Connection) -> None:
    """Give tenants that only have audits so far a row. (Whoever deletes an audit sees to those that have none left.)"""
    known = _with_audits().subquery()
    absent = select(known.c.tenant).where(known.c.tenant.not_in(select(TenantRow.tenant)))
    row = conflicting_insert(connection, TenantRow).from_select([TenantRow.tenant], absent)
    connection.execute(row.on_conflict_do_nothing())


def _with_audits() -> Select[str]:
    """The tenants that have audits, each found from the one before by one step into an index: neither database does
    that for DISTINCT, which reads every audit."""
    first = select(func.min(AuditRow.tenant).label("tenant")).cte("with_audits", recursive=True)
    following = select(func.min(AuditRow.tenant)).where(AuditRow.tenant > first.c.tenant).scalar_subquery()
    every = first.union_all(select(following).where(first.c.tenant.is_not(None)))
    return select(every.c.tenant).where(every.c.tenant.is_not(None))
