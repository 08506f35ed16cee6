"""Deliveries of webhooks as they are looked at: each with its attempts."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select

from peelbound.service.database.errors import DeliveryNotFound
from peelbound.service.database.tables import DeliveryAttemptRow, DeliveryRow
from peelbound.service.schemas.webhook import Delivery, DeliveryAttempt


def delivery_key(tenant: str, webhook_id: str, delivery_id: str) -> tuple[ColumnElement[bool], ...]:
    """What names one delivery."""
    return DeliveryRow.tenant == tenant, DeliveryRow.webhook_id == webhook_id, DeliveryRow.id == delivery_id


def deliveries_of(tenant: str) -> Any:
    """The columns of `Delivery`, and those that it follows from."""
    return select(
        DeliveryRow.id,
        DeliveryRow.type,
        DeliveryRow.audit_id,
        DeliveryRow.state,
        DeliveryRow.created_at,
        DeliveryRow.ended_at,
        DeliveryRow.due_at,
        DeliveryRow.lease_owner,
        DeliveryRow.body,
    ).where(DeliveryRow.tenant == tenant)


def one_delivery(connection: Connection, tenant: str, webhook_id: str, delivery_id: str) -> Delivery:
    """One delivery.

    Raises:
        DeliveryNotFound: the endpoint has no such delivery.
    """
    query = deliveries_of(tenant).where(DeliveryRow.webhook_id == webhook_id, DeliveryRow.id == delivery_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise DeliveryNotFound(
            f"Webhook {webhook_id} has no delivery {delivery_id!r}.",
            remedy=f"GET /v1/webhooks/{webhook_id}/deliveries lists those that exist.",
        )
    return with_attempts(connection, tenant, [row])[0]


def with_attempts(connection: Connection, tenant: str, rows: Sequence[Row[*tuple[Any, ...]]]) -> list[Delivery]:
    """Deliveries, each with all its attempts, in the order of the rows of `deliveries_of`."""
    attempts: dict[str, list[DeliveryAttempt]] = {row.id: [] for row in rows}
    query = (
        select(
            DeliveryAttemptRow.delivery_id,
            DeliveryAttemptRow.number,
            DeliveryAttemptRow.at,
            DeliveryAttemptRow.seconds,
            DeliveryAttemptRow.status,
            DeliveryAttemptRow.error,
        )
        .where(DeliveryAttemptRow.tenant == tenant, DeliveryAttemptRow.delivery_id.in_(attempts))
        .order_by(DeliveryAttemptRow.number)
    )
    for row in connection.execute(query):
        attempts[row.delivery_id].append(
            DeliveryAttempt(number=row.number, at=row.at, seconds=row.seconds, status=row.status, error=row.error)
        )
    return [
        Delivery(
            id=row.id,
            type=row.type,
            audit_id=row.audit_id,
            state=row.state,
            created_at=row.created_at,
            ended_at=row.ended_at,
            next_attempt_at=row.due_at if row.lease_owner is None else None,
            body=row.body,
            attempts=attempts[row.id],
        )
        for row in rows
    ]
