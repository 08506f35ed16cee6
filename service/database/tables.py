"""The tables. Every row but a controller's belongs to a tenant, and the tenant is part of its key."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Enum, ForeignKeyConstraint, Index, MetaData, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from peelbound.service.database.columns import Stored, UtcDateTime
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.record import AuditState, EventType, Progress
from peelbound.service.schemas.report import Summary
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.schemas.webhook import DeliveryState, DisabledBecause


class Table(DeclarativeBase):
    """Base of all tables; constraints have names, because migrations must name what they alter."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(referred_table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        datetime: UtcDateTime(),
        AuditState: Enum(
            AuditState,
            name="state",
            native_enum=False,
            create_constraint=True,
            length=16,
            values_callable=lambda kinds: [kind.value for kind in kinds],
        ),
        EventType: Enum(
            EventType,
            name="type",
            native_enum=False,
            create_constraint=True,
            length=16,
            values_callable=lambda kinds: [kind.value for kind in kinds],
        ),
        DeliveryState: Enum(
            DeliveryState,
            name="state",
            native_enum=False,
            create_constraint=True,
            length=16,
            values_callable=lambda kinds: [kind.value for kind in kinds],
        ),
        DisabledBecause: Enum(
            DisabledBecause,
            name="disabled_because",
            native_enum=False,
            create_constraint=True,
            length=16,
            values_callable=lambda kinds: [kind.value for kind in kinds],
        ),
        Progress: Stored(Progress),
        Problem: Stored(Problem),
        Summary: Stored(Summary),
        AuditRequest: Stored(AuditRequest),
        dict[str, Any]: Stored(dict[str, Any]),
        list[str]: Stored(list[str]),
    }


class AuditRow(Table):
    """One audit: where it stands, who works on it, what came out."""

    __tablename__ = "audits"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    """A ULID of the creation time: the order of ids is the order of creation."""
    state: Mapped[AuditState]
    attempt: Mapped[int]
    """How often the audit was claimed: the fence. It only ever grows."""
    failures: Mapped[int]
    """Attempts that infrastructure ended; an attempt handed back at a shutdown is none."""
    event_count: Mapped[int]
    claimable_at: Mapped[datetime | None] = mapped_column(index=True)
    """When a controller may take the audit: while queued the end of its backoff, while at work the end of its lease,
    once ended never."""
    lease_owner: Mapped[str | None]
    deadline_at: Mapped[datetime | None] = mapped_column(index=True)
    """When the audit is failed unless it has ended; None without a deadline, and once ended."""
    claimed_at: Mapped[datetime | None]
    """When the attempt at work was claimed; None while there is none. Collections of results wait for attempts that
    began before them."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    idempotency_key: Mapped[str | None]
    checkpoint: Mapped[str]
    run: Mapped[str | None]
    step: Mapped[int | None] = mapped_column(BigInteger)
    training_loss: Mapped[float | None]
    request_bytes: Mapped[int]
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    progress: Mapped[Progress | None]
    problem: Mapped[Problem | None]
    summary: Mapped[Summary | None]
    manifest_key: Mapped[str | None]

    __table_args__ = (
        UniqueConstraint("tenant", "idempotency_key"),
        Index(None, "tenant", "state", "id"),
        Index(None, "tenant", "run", "step"),
        Index(None, "tenant", "ended_at"),
    )


def _of_audit() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant", "audit_id"], [AuditRow.tenant, AuditRow.id], ondelete="CASCADE")


class RequestRow(Table):
    """What was asked for. Apart from the audit, because SQLite rewrites a whole row when one column of it changes, and
    a request may carry megabytes of calibration text while the audit's row changes with each heartbeat."""

    __tablename__ = "requests"
    __table_args__ = (_of_audit(),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[AuditRequest]
    request_id: Mapped[str | None]
    """Of the HTTP request that brought it."""
    traceparent: Mapped[str | None]
    """The span that submitted it, where traces are on."""


class LabelRow(Table):
    """A label of an audit, for filters."""

    __tablename__ = "labels"
    __table_args__ = (_of_audit(), Index(None, "tenant", "name", "value", "audit_id"))

    tenant: Mapped[str] = mapped_column(primary_key=True)
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class EventRow(Table):
    """One thing that happened to an audit; numbers count from 1 without gaps."""

    __tablename__ = "events"
    __table_args__ = (_of_audit(),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    type: Mapped[EventType]
    data: Mapped[dict[str, Any]]


class WebhookRow(Table):
    """An endpoint that is told when the tenant's audits end."""

    __tablename__ = "webhooks"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    events: Mapped[list[str]]
    description: Mapped[str]
    secret: Mapped[str]
    """Kept as it is: signing needs it."""
    previous_secret: Mapped[str | None]
    previous_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    disabled_because: Mapped[DisabledBecause | None]


class DeliveryRow(Table):
    """A message for an endpoint: written in the transaction of what it tells of, then sent until it arrives."""

    __tablename__ = "webhook_deliveries"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str]
    audit_id: Mapped[str | None]
    """None of a test, and of a message that was still to be sent when its audit was deleted."""
    type: Mapped[str]
    body: Mapped[str]
    state: Mapped[DeliveryState]
    attempts: Mapped[int]
    """How often it was taken to be sent: the fence. It only ever grows."""
    failures: Mapped[int]
    """Where it stands in the schedule: attempts that failed since it was written or redelivered, and those that a wait
    which the receiver asked for stands for."""
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    """When it may be taken: while it waits the end of its backoff, while it is being sent the end of its lease, once
    ended never."""
    lease_owner: Mapped[str | None]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)

    __table_args__ = (
        ForeignKeyConstraint(["tenant", "webhook_id"], [WebhookRow.tenant, WebhookRow.id], ondelete="CASCADE"),
        _of_audit(),
        Index(None, "tenant", "webhook_id", "id"),
        Index(None, "tenant", "audit_id"),
        # Those that have not ended, by endpoint: whose turn it is.
        Index(
            "ix_webhook_deliveries_pending",
            "tenant",
            "webhook_id",
            "due_at",
            "id",
            sqlite_where=text("due_at IS NOT NULL"),
            postgresql_where=text("due_at IS NOT NULL"),
        ),
        # Those that are being sent: a handful, whatever waits.
        Index(
            "ix_webhook_deliveries_being_sent",
            "tenant",
            "webhook_id",
            sqlite_where=text("lease_owner IS NOT NULL"),
            postgresql_where=text("lease_owner IS NOT NULL"),
        ),
        # Those that outlived their audit.
        Index(
            "ix_webhook_deliveries_orphaned",
            "ended_at",
            sqlite_where=text("audit_id IS NULL AND type <> 'webhook.test'"),
            postgresql_where=text("audit_id IS NULL AND type <> 'webhook.test'"),
        ),
    )


class DeliveryAttemptRow(Table):
    """One time that a message was sent; what came of it is written when it is known."""

    __tablename__ = "webhook_attempts"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    delivery_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    seconds: Mapped[float | None]
    status: Mapped[int | None]
    error: Mapped[str | None]

    __table_args__ = (
        ForeignKeyConstraint(["tenant", "delivery_id"], [DeliveryRow.tenant, DeliveryRow.id], ondelete="CASCADE"),
    )


class TokenRow(Table):
    """A bearer token, by the SHA-256 of its secret."""

    __tablename__ = "tokens"
    __table_args__ = (UniqueConstraint("tenant", "name"),)

    digest: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    """From when the token opens nothing any more; None is never."""


class TenantRow(Table):
    """What was measured of a tenant; also the row that its submissions lock to be counted one after the other."""

    __tablename__ = "tenants"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    measured_at: Mapped[datetime | None]
    keep_seconds: Mapped[int | None] = mapped_column(BigInteger)
    """How long audits are kept after their end: 0 is for ever, None as long as the service's settings say."""
    collect_at: Mapped[datetime | None]
    """When the tenant's storage is to be collected next; None as soon as can be."""


class TurnRow(Table):
    """When a tenant was last served. Apart from `TenantRow`, which submissions lock: claims wait for none of them."""

    __tablename__ = "turns"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    served_at: Mapped[datetime]
    """When an audit of it was last claimed."""


class CondemnedRow(Table):
    """A result that no audit had used when its tenant's storage was collected; see `retention.py`."""

    __tablename__ = "condemned_results"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """The objects' key, without suffix."""
    since: Mapped[datetime | None]
    """A time after which every attempt that begins can know of this row; None until that is so."""


class LogRow(Table):
    """Who changed what. Triggers refuse UPDATE and DELETE."""

    __tablename__ = "action_log"
    __table_args__ = (Index(None, "tenant", "target", "id"),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    """A ULID of the time."""
    at: Mapped[datetime]
    actor: Mapped[str]
    actor_name: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    request_id: Mapped[str]


class ControllerRow(Table):
    """When a controller was last alive. Controllers serve all tenants."""

    __tablename__ = "controllers"

    owner: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]
