"""What the API needs of the database: submit, look up, list, cancel and delete audits, read their events."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
    type_coerce,
)
from ulid import ULID

from peelbound.service import tracing
from peelbound.service.database import announcements, log
from peelbound.service.database.among import Among
from peelbound.service.database.audit_rows import RECORDS, points_of, readable, record_of
from peelbound.service.database.cursors import decode_cursor, encode_cursor
from peelbound.service.database.deadlines import deadline
from peelbound.service.database.engine import Clock, database_clock, reading, writing
from peelbound.service.database.errors import (
    AuditEnded,
    AuditNotEnded,
    AuditNotFound,
    IdempotencyConflict,
    RunNotFound,
)
from peelbound.service.database.log import Actor
from peelbound.service.database.tables import AuditRow, EventRow, LabelRow, RequestRow, TenantRow
from peelbound.service.database.tenants import TenantLimits, hold_to
from peelbound.service.database.transitions import advance, append
from peelbound.service.database.upsert import conflicting_insert
from peelbound.service.schemas.record import (
    AuditPage,
    AuditRecord,
    AuditState,
    Event,
    EventType,
    RunSeries,
)
from peelbound.service.schemas.request import AuditRequest

logger = logging.getLogger(__name__)

PAGE_BYTES = 16 << 20
"""A page of audits ends early when its requests would be larger than this together; it holds at least one."""

SMALL_BYTES = 64 << 10
"""Requests up to this size are read together with others; one may hold megabytes of calibration text."""

_GONE = [AuditState.FAILED, AuditState.CANCELLED]


_ONE = RECORDS.where(AuditRow.tenant == bindparam("tenant"), AuditRow.id == bindparam("id"))
_BY_KEY = RECORDS.where(AuditRow.tenant == bindparam("tenant"), AuditRow.idempotency_key == bindparam("key"))


class Standing(NamedTuple):
    """Where an audit stands, read at once: what has ended has written all of its events."""

    state: AuditState
    events: int
    """The number of its last event."""


class Audits:
    """The audits of all tenants. Each method sees those of the tenant it is given, and no others."""

    def __init__(self, engine: Engine, *, clock: Clock = database_clock, limits: TenantLimits | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self._limits = limits or TenantLimits()
        self._among = Among(engine, AuditRow.tenant, AuditRow.id)
        self._standings = select(AuditRow.tenant, AuditRow.id, AuditRow.state, AuditRow.event_count).where(
            self._among.condition
        )
        self._page = RECORDS.where(self._among.condition).order_by(AuditRow.id.desc())
        self._small = RECORDS.add_columns(AuditRow.tenant).where(
            self._among.condition, AuditRow.request_bytes <= SMALL_BYTES
        )

    def submit(
        self, tenant: str, request: AuditRequest, idempotency_key: str | None, *, by: Actor | None = None
    ) -> tuple[AuditRecord, bool]:
        """Queue an audit. With a key that was used before for the same request, answer that audit and False.

        Requests are compared as such and not by a hash, so that a field added by an upgrade does not make a repeated
        request look like another one.

        Raises:
            IdempotencyConflict: the key was used for another request.
            TenantActiveLimit, TenantStorageLimit: the tenant has or stores as much as it may.
            AuditUnreadable: the key was used for an audit that this version cannot read.
        """
        with writing(self._engine) as connection:
            while True:
                if audit_id := self._insert(connection, tenant, request, idempotency_key, by):
                    return record_of(_one_row(connection, tenant, audit_id)), True
                earlier = (
                    connection.execute(_BY_KEY, {"tenant": tenant, "key": idempotency_key}).mappings().one_or_none()
                )
                if earlier is not None:
                    break
                # Deleted between the two statements (PostgreSQL): the key is free again.
        found = record_of(earlier)
        if found.request != request:
            raise IdempotencyConflict(
                f"The key was used for audit {found.id}, whose request differs from this one.",
                remedy="Repeat the request unchanged, or send a new Idempotency-Key.",
            )
        return found, False

    def _insert(
        self,
        connection: Connection,
        tenant: str,
        request: AuditRequest,
        idempotency_key: str | None,
        by: Actor | None,
    ) -> str | None:
        """The new audit's id, or None where the key is taken. (Where it is being taken, we wait for the outcome.)"""
        now = self._clock(connection)
        request_bytes = len(request.model_dump_json().encode())
        created = connection.scalar(
            conflicting_insert(connection, AuditRow)
            .values(
                tenant=tenant,
                id=str(ULID.from_datetime(now)),
                state=AuditState.QUEUED,
                attempt=0,
                failures=0,
                event_count=1,
                claimable_at=now,
                deadline_at=deadline(now, request.deadline_seconds),
                created_at=now,
                idempotency_key=idempotency_key,
                checkpoint=request.checkpoint,
                run=request.run,
                step=request.step,
                training_loss=request.training_loss,
                priority=request.priority,
                request_bytes=request_bytes,
            )
            .on_conflict_do_nothing(index_elements=[AuditRow.tenant, AuditRow.idempotency_key])
            .returning(AuditRow.id)
        )
        if created is None:
            return None
        audit_id = str(created)
        key = {"tenant": tenant, "audit_id": audit_id}
        connection.execute(
            insert(RequestRow).values(
                **key,
                body=request,
                request_id=None if by is None else by.request_id,
                traceparent=tracing.traceparent(),
            )
        )
        if request.labels:
            connection.execute(
                insert(LabelRow), [{**key, "name": name, "value": value} for name, value in request.labels.items()]
            )
        append(connection, tenant, audit_id, 1, now, EventType.STATE, {"state": AuditState.QUEUED, "attempt": 0})
        log.write(connection, tenant, by, now, "audit.submit", audit_id)
        hold_to(connection, tenant, self._limits, request_bytes)
        return audit_id

    def get(self, tenant: str, audit_id: str) -> AuditRecord:
        """One audit.

        Raises:
            AuditNotFound: the tenant has no such audit.
            AuditUnreadable: a later version wrote something into it that this one does not know.
        """
        with reading(self._engine) as connection:
            row = _one_row(connection, tenant, audit_id)
        return record_of(row)

    def small(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], AuditRecord]:
        """Audits by (tenant, id), with one query for any number.

        Left out are those that do not exist, those whose requests are larger than `SMALL_BYTES` and would hold up the
        others, and those that this version cannot read: `get` has them, or says what is the matter.
        """
        with reading(self._engine) as connection:
            rows = connection.execute(self._small, self._among.parameters(keys)).mappings().all()
        return {(row["tenant"], row["id"]): record for row, record in readable(rows)}

    def state(self, tenant: str, audit_id: str) -> Standing:
        """Where one audit stands: cheap to poll, as the request is not read.

        Raises:
            AuditNotFound: the tenant has no such audit.
        """
        found = self.standings([(tenant, audit_id)])
        if not found:
            raise not_found(audit_id)
        return found[tenant, audit_id]

    def standings(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Standing]:
        """Where audits stand, by (tenant, id), with one query for any number; those that do not exist are left out."""
        with reading(self._engine) as connection:
            rows = connection.execute(self._standings, self._among.parameters(keys)).all()
        return {(row.tenant, row.id): Standing(row.state, row.event_count) for row in rows}

    def page(
        self,
        tenant: str,
        *,
        state: AuditState | None = None,
        run: str | None = None,
        labels: Sequence[tuple[str, str]] | None = None,
        checkpoint_prefix: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> AuditPage:
        """A page of audits, newest first; each filter that is not None narrows it. Of `labels`, one must fit.

        Audits that this version cannot read are left out, and the page is shorter by them.

        The cursor names the last audit of the page before, so audits that come or go meanwhile shift nothing.

        Raises:
            CursorInvalid: the cursor is not one that an earlier page gave.
        """
        # A prefix is not for LIKE: it ignores case on SQLite, and the prefix may hold its wildcards.
        prefix = checkpoint_prefix
        filters: dict[str, dict[str, Any]] = {
            "state": {} if state is None else {"state": state},
            "run": {} if run is None else {"run": run},
            "labels": {} if labels is None else {"labels": labels},
            "checkpoint": {} if prefix is None else {"prefix": prefix, "prefix_length": len(prefix)},
            "cursor": {} if cursor is None else {"before": decode_cursor(cursor)},
        }
        narrowed = tuple(name for name, values in filters.items() if values)
        values = {"tenant": tenant, "most": limit + 1}
        for each in filters.values():
            values |= each
        wanted = _wanted(narrowed)
        with reading(self._engine) as connection:
            candidates = [(row.id, row.request_bytes) for row in connection.execute(wanted, values)]
            ids = _fitting(candidates[:limit])
            keys = self._among.parameters((tenant, audit_id) for audit_id in ids)
            rows = connection.execute(self._page, keys).mappings().all()
        return AuditPage(
            items=[record for _, record in readable(rows)],
            next_cursor=encode_cursor(ids[-1]) if len(ids) < len(candidates) else None,
        )

    def cancel(self, tenant: str, audit_id: str, *, by: Actor | None = None) -> AuditRecord:
        """Cancel a queued audit at once; ask the controller of a running one to stop. Asking twice changes nothing.

        Raises:
            AuditNotFound: the tenant has no such audit.
            AuditEnded: there is nothing left to cancel.
            AuditUnreadable: it is cancelled, and this version cannot show it.
        """
        with writing(self._engine) as connection:
            now = self._clock(connection)
            row = connection.execute(
                select(AuditRow.state, AuditRow.attempt).where(*_key(tenant, audit_id)).with_for_update()
            ).one_or_none()
            if row is None:
                raise not_found(audit_id)
            if row.state.ended:
                raise AuditEnded(
                    f"Audit {audit_id} has {_ended_as(row.state)}.", remedy="There is nothing left to cancel."
                )
            follows = {AuditState.QUEUED: AuditState.CANCELLED, AuditState.RUNNING: AuditState.CANCELLING}
            if target := follows.get(row.state):
                advance(connection, _key(tenant, audit_id), now, target, row.attempt)
                log.write(connection, tenant, by, now, "audit.cancel", audit_id)
            cancelled = _one_row(connection, tenant, audit_id)
        return record_of(cancelled)

    def require_ended(self, tenant: str, audit_id: str) -> None:
        """See that the audit may be deleted.

        Raises:
            AuditNotFound: the tenant has no such audit.
            AuditNotEnded: it is still queued or at work.
        """
        state = self.state(tenant, audit_id).state
        if not state.ended:
            raise _not_ended(audit_id, state)

    def delete(self, tenant: str, audit_id: str, *, by: Actor | None = None) -> str | None:
        """Forget an audit that has ended, with its events; answers its manifest's key, if it published one.

        What webhooks are still to be told of its end stays until they were.

        Raises:
            AuditNotFound: the tenant has no such audit.
            AuditNotEnded: it is still queued or at work.
        """
        key = _key(tenant, audit_id)
        with writing(self._engine) as connection:
            state = connection.scalar(select(AuditRow.state).where(*key).with_for_update())
            if state is None:
                raise not_found(audit_id)
            if not state.ended:
                raise _not_ended(audit_id, state)
            announcements.outlive(connection, tenant, audit_id)
            manifest_key: str | None = connection.scalar(delete(AuditRow).where(*key).returning(AuditRow.manifest_key))
            # With its last audit a tenant would be forgotten, and what it stores with it.
            row = conflicting_insert(connection, TenantRow).values(tenant=tenant)
            connection.execute(row.on_conflict_do_nothing())
            log.write(connection, tenant, by, self._clock(connection), "audit.delete", audit_id)
            return manifest_key

    def events(self, tenant: str, audit_id: str, after: int = 0, limit: int = 500) -> list[Event]:
        """The audit's events with numbers greater than `after`, in order.

        Raises:
            AuditNotFound: the tenant has no such audit.
        """
        query = (
            select(EventRow.number, EventRow.at, EventRow.type, EventRow.data)
            .where(EventRow.tenant == tenant, EventRow.audit_id == audit_id, EventRow.number > after)
            .order_by(EventRow.number)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).mappings().all()
            if not rows and connection.scalar(select(AuditRow.id).where(*_key(tenant, audit_id))) is None:
                raise not_found(audit_id)
        return [Event.model_validate(dict(row)) for row in rows]

    def manifest_key(self, tenant: str, audit_id: str) -> str | None:
        """Where the audit's published results are listed; None while it has none.

        Raises:
            AuditNotFound: the tenant has no such audit.
        """
        with reading(self._engine) as connection:
            row = connection.execute(select(AuditRow.manifest_key).where(*_key(tenant, audit_id))).one_or_none()
        if row is None:
            raise not_found(audit_id)
        return row[0]

    def runs(self, tenant: str) -> list[str]:
        """The names of the runs that have audits, sorted."""
        with reading(self._engine) as connection:
            names = connection.scalars(
                select(AuditRow.run).where(AuditRow.tenant == tenant, AuditRow.run.is_not(None)).distinct()
            )
            # Sorted here, because a database sorts by its own locale.
            return sorted(name for name in names if name is not None)

    def run_series(self, tenant: str, run: str) -> RunSeries:
        """The succeeded and pending audits of a run by step; those without a step come last.

        Raises:
            RunNotFound: the tenant has no audit of this run.
        """
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    AuditRow.id.label("audit_id"),
                    AuditRow.step,
                    AuditRow.training_loss,
                    AuditRow.state,
                    type_coerce(AuditRow.summary, Text).label("summary"),
                )
                .where(AuditRow.tenant == tenant, AuditRow.run == run)
                .order_by(AuditRow.step.nulls_last(), AuditRow.id)
            )
            found = rows.mappings().all()
        if not found:
            raise RunNotFound(f"No audit names the run {run!r}.", remedy="GET /v1/runs lists those that have audits.")
        return RunSeries(
            run=run, points=[point for row in found if row["state"] not in _GONE for point in points_of(row)]
        )


def _key(tenant: str, audit_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return AuditRow.tenant == tenant, AuditRow.id == audit_id


_FILTERS = {
    "state": AuditRow.state == bindparam("state"),
    "run": AuditRow.run == bindparam("run"),
    "labels": AuditRow.id.in_(
        select(LabelRow.audit_id).where(
            LabelRow.tenant == bindparam("tenant"),
            tuple_(LabelRow.name, LabelRow.value).in_(bindparam("labels", expanding=True)),
        )
    ),
    "checkpoint": func.substr(AuditRow.checkpoint, 1, bindparam("prefix_length")) == bindparam("prefix"),
    "cursor": AuditRow.id < bindparam("before"),
}


@cache
def _wanted(filters: tuple[str, ...]) -> Select[str, int]:
    """The query for the newest audits that pass the filters, and how large their requests are."""
    return (
        select(AuditRow.id, AuditRow.request_bytes)
        .where(AuditRow.tenant == bindparam("tenant"), *(_FILTERS[name] for name in filters))
        .order_by(AuditRow.id.desc())
        .limit(bindparam("most"))
    )


def _one_row(connection: Connection, tenant: str, audit_id: str) -> RowMapping:
    row = connection.execute(_ONE, {"tenant": tenant, "id": audit_id}).mappings().one_or_none()
    if row is None:
        raise not_found(audit_id)
    return row


def _fitting(candidates: list[tuple[str, int]]) -> list[str]:
    """The ids from the front whose requests fit into a page together, at least one if there is any."""
    ids: list[str] = []
    total = 0
    for audit_id, size in candidates:
        total += size
        if ids and total > PAGE_BYTES:
            break
        ids.append(audit_id)
    return ids


def _not_ended(audit_id: str, state: AuditState) -> AuditNotEnded:
    return AuditNotEnded(f"Audit {audit_id} is {state}.", remedy="Cancel it first, or wait for its end.")


def _ended_as(state: AuditState) -> str:
    return "been cancelled" if state is AuditState.CANCELLED else str(state)


def not_found(audit_id: str) -> AuditNotFound:
    """What is said of an audit that does not exist, or is another tenant's."""
    return AuditNotFound(f"There is no audit {audit_id!r}.", remedy="GET /v1/audits lists those that exist.")
