"""What the API needs of the database for webhooks: make and change endpoints, look at deliveries, send again."""

import base64
import secrets
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, delete, func, insert, select, update
from ulid import ULID

from peelbound.service.database import announcements, log
from peelbound.service.database.cursors import decode_cursor, encode_cursor
from peelbound.service.database.deliveries import deliveries_of, delivery_key, one_delivery, with_attempts
from peelbound.service.database.engine import Clock, database_clock, reading, writing
from peelbound.service.database.errors import WebhookDisabled, WebhookLimit, WebhookNotFound
from peelbound.service.database.log import Actor
from peelbound.service.database.tables import DeliveryRow, WebhookRow
from peelbound.service.schemas.webhook import (
    TEST,
    Delivery,
    DeliveryPage,
    DeliveryState,
    DisabledBecause,
    TrialMessage,
    TriedEndpoint,
    Webhook,
    WebhookChange,
    WebhookEvent,
    WebhookRequest,
    WebhookWithSecret,
)

MOST_WEBHOOKS = 20
"""Endpoints of one tenant: each costs a row in the transaction in which an audit ends."""
_SECRET_BYTES = 32


class Webhooks:
    """The webhooks of all tenants. Each method sees those of the tenant it is given, and no others."""

    def __init__(self, engine: Engine, *, clock: Clock = database_clock) -> None:
        self._engine = engine
        self._clock = clock

    def create(self, tenant: str, request: WebhookRequest, url: str, *, by: Actor | None = None) -> WebhookWithSecret:
        """Make an endpoint with a secret of its own.

        Args:
            tenant: whom it belongs to.
            request: what was asked for.
            url: its URL, checked and in normal form.
            by: who makes it.

        Raises:
            WebhookLimit: the tenant has as many as it may.
        """
        secret = _new_secret()
        with writing(self._engine) as connection:
            now = self._clock(connection)
            webhook_id = str(ULID.from_datetime(now))
            connection.execute(
                insert(WebhookRow).values(
                    tenant=tenant,
                    id=webhook_id,
                    url=url,
                    events=_in_order(request.events),
                    description=request.description,
                    secret=secret,
                    created_at=now,
                )
            )
            # Two that are made at the same moment may both pass on PostgreSQL; the bound need not be that exact.
            count = connection.scalars(
                select(func.count()).select_from(WebhookRow).where(WebhookRow.tenant == tenant)
            ).one()
            if count > MOST_WEBHOOKS:
                raise WebhookLimit(
                    f"The tenant already has {MOST_WEBHOOKS} webhooks.", remedy="Delete one that is no longer needed."
                )
            log.write(connection, tenant, by, now, "webhook.create", webhook_id)
            return self._with_secret(connection, tenant, webhook_id, secret)

    def listed(self, tenant: str) -> list[Webhook]:
        """All endpoints, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(_webhooks(tenant).order_by(WebhookRow.id)).mappings()
            return [Webhook.model_validate(dict(row)) for row in rows]

    def get(self, tenant: str, webhook_id: str) -> Webhook:
        """One endpoint.

        Raises:
            WebhookNotFound: the tenant has no such endpoint.
        """
        with reading(self._engine) as connection:
            return _one(connection, tenant, webhook_id)

    def change(
        self, tenant: str, webhook_id: str, change: WebhookChange, url: str | None, *, by: Actor | None = None
    ) -> Webhook:
        """Change what is given, `url` in normal form.

        Raises:
            WebhookNotFound: the tenant has no such endpoint.
        """
        with writing(self._engine) as connection:
            now = self._clock(connection)
            _locked(connection, tenant, webhook_id)
            values: dict[str, Any] = {
                "url": url,
                "events": None if change.events is None else _in_order(change.events),
                "description": change.description,
            }
            values = {name: value for name, value in values.items() if value is not None}
            if values:
                connection.execute(update(WebhookRow).where(*_key(tenant, webhook_id)).values(**values))
            if change.enabled is True:
                connection.execute(
                    update(WebhookRow).where(*_key(tenant, webhook_id)).values(disabled_at=None, disabled_because=None)
                )
            elif change.enabled is False:
                disable(connection, tenant, webhook_id, now, DisabledBecause.REQUESTED)
            log.write(connection, tenant, by, now, "webhook.update", webhook_id)
            return _one(connection, tenant, webhook_id)

    def rotate(self, tenant: str, webhook_id: str, overlap: timedelta, *, by: Actor | None = None) -> WebhookWithSecret:
        """Give the endpoint a new secret; for `overlap` messages carry a signature by the old one too.

        Raises:
            WebhookNotFound: the tenant has no such endpoint.
        """
        secret = _new_secret()
        with writing(self._engine) as connection:
            now = self._clock(connection)
            old = _locked(connection, tenant, webhook_id).secret
            keeps = overlap > timedelta()
            connection.execute(
                update(WebhookRow)
                .where(*_key(tenant, webhook_id))
                .values(
                    secret=secret,
                    previous_secret=old if keeps else None,
                    previous_secret_until=now + overlap if keeps else None,
                )
            )
            log.write(connection, tenant, by, now, "webhook.rotate", webhook_id)
            return self._with_secret(connection, tenant, webhook_id, secret)

    def delete(self, tenant: str, webhook_id: str, *, by: Actor | None = None) -> None:
        """Forget the endpoint, its deliveries and their log.

        Raises:
            WebhookNotFound: the tenant has no such endpoint.
        """
        with writing(self._engine) as connection:
            gone = connection.scalar(delete(WebhookRow).where(*_key(tenant, webhook_id)).returning(WebhookRow.id))
            if gone is None:
                raise _not_found(webhook_id)
            log.write(connection, tenant, by, self._clock(connection), "webhook.delete", webhook_id)

    def test(self, tenant: str, webhook_id: str, *, by: Actor | None = None) -> Delivery:
        """Write a message that says nothing, to be sent as any other.

        Raises:
            WebhookNotFound: the tenant has no such endpoint.
            WebhookDisabled: it gets no messages.
        """
        with writing(self._engine) as connection:
            now = self._clock(connection)
            _enabled(connection, tenant, webhook_id)
            message = TrialMessage(type=TEST, timestamp=now, data=TriedEndpoint(webhook_id=webhook_id))
            body = message.model_dump_json()
            delivery_id = announcements.write(connection, tenant, webhook_id, message.type, body, now, None)
            log.write(connection, tenant, by, now, "webhook.test", webhook_id)
            return one_delivery(connection, tenant, webhook_id, delivery_id)

    def redeliver(self, tenant: str, webhook_id: str, delivery_id: str, *, by: Actor | None = None) -> Delivery:
        """Send a message again, under its id and by the whole schedule; one that waits is sent now.

        Raises:
            WebhookNotFound, DeliveryNotFound: the tenant has no such endpoint, or that no such delivery.
            WebhookDisabled: the endpoint gets no messages.
        """
        with writing(self._engine) as connection:
            now = self._clock(connection)
            _enabled(connection, tenant, webhook_id)
            due = {"state": DeliveryState.PENDING, "failures": 0, "due_at": now, "lease_owner": None, "ended_at": None}
            # One that is being sent at this moment is left to whoever sends it.
            connection.execute(
                update(DeliveryRow)
                .where(
                    *delivery_key(tenant, webhook_id, delivery_id),
                    DeliveryRow.lease_owner.is_(None) | (DeliveryRow.due_at <= now),
                )
                .values(**due)
            )
            found = one_delivery(connection, tenant, webhook_id, delivery_id)
            log.write(connection, tenant, by, now, "webhook.redeliver", delivery_id)
            return found

    def deliveries(
        self,
        tenant: str,
        webhook_id: str,
        *,
        state: DeliveryState | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> DeliveryPage:
        """A page of the endpoint's deliveries with all attempts, newest first.

        Raises:
            WebhookNotFound: the tenant has no such endpoint.
            CursorInvalid: the cursor is not one that an earlier page gave.
        """
        wanted = (
            deliveries_of(tenant)
            .where(DeliveryRow.webhook_id == webhook_id)
            .order_by(DeliveryRow.id.desc())
            .limit(limit + 1)
        )
        if state is not None:
            wanted = wanted.where(DeliveryRow.state == state)
        if cursor is not None:
            wanted = wanted.where(DeliveryRow.id < decode_cursor(cursor))
        with reading(self._engine) as connection:
            _one(connection, tenant, webhook_id)
            rows = connection.execute(wanted).all()
            items = with_attempts(connection, tenant, rows[:limit])
        return DeliveryPage(items=items, next_cursor=encode_cursor(items[-1].id) if len(rows) > limit else None)

    @staticmethod
    def _with_secret(connection: Connection, tenant: str, webhook_id: str, secret: str) -> WebhookWithSecret:
        webhook = _one(connection, tenant, webhook_id)
        return WebhookWithSecret(**dict(webhook), secret=secret)


def disable(connection: Connection, tenant: str, webhook_id: str, now: Any, because: DisabledBecause) -> None:
    """Send the endpoint nothing more; what waits ends as failed. The webhook's row is to be locked."""
    connection.execute(
        update(WebhookRow)
        .where(*_key(tenant, webhook_id), WebhookRow.disabled_at.is_(None))
        .values(disabled_at=now, disabled_because=because)
    )
    connection.execute(
        update(DeliveryRow)
        .where(
            DeliveryRow.tenant == tenant,
            DeliveryRow.webhook_id == webhook_id,
            DeliveryRow.state == DeliveryState.PENDING,
        )
        .values(state=DeliveryState.FAILED, due_at=None, lease_owner=None, ended_at=now)
    )


def _new_secret() -> str:
    """`whsec_` and 256 random bits in base64, as Standard Webhooks has it (24 to 64 bytes)."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def _in_order(events: list[WebhookEvent]) -> list[str]:
    return [event.value for event in WebhookEvent if event in events]


def _key(tenant: str, webhook_id: str) -> tuple[ColumnElement[bool], ...]:
    return WebhookRow.tenant == tenant, WebhookRow.id == webhook_id


def _webhooks(tenant: str) -> Any:
    """The columns of `Webhook`, by its own names."""
    return select(
        WebhookRow.id,
        WebhookRow.url,
        WebhookRow.events,
        WebhookRow.description,
        WebhookRow.created_at,
        WebhookRow.disabled_at,
        WebhookRow.disabled_because,
        WebhookRow.previous_secret_until,
    ).where(WebhookRow.tenant == tenant)


def _one(connection: Connection, tenant: str, webhook_id: str) -> Webhook:
    row = connection.execute(_webhooks(tenant).where(WebhookRow.id == webhook_id)).mappings().one_or_none()
    if row is None:
        raise _not_found(webhook_id)
    return Webhook.model_validate(dict(row))


def _locked(connection: Connection, tenant: str, webhook_id: str) -> Row[*tuple[Any, ...]]:
    row = connection.execute(
        select(WebhookRow.secret, WebhookRow.disabled_at).where(*_key(tenant, webhook_id)).with_for_update()
    ).one_or_none()
    if row is None:
        raise _not_found(webhook_id)
    return row


def _enabled(connection: Connection, tenant: str, webhook_id: str) -> None:
    if _locked(connection, tenant, webhook_id).disabled_at is not None:
        raise WebhookDisabled(
            f"Webhook {webhook_id} is disabled.", remedy='Enable it first: PATCH it with {"enabled": true}.'
        )


def _not_found(webhook_id: str) -> WebhookNotFound:
    return WebhookNotFound(f"There is no webhook {webhook_id!r}.", remedy="GET /v1/webhooks lists those that exist.")
