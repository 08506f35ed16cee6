"""The outbox: what the tenant's webhooks are told is written in the transaction of what it tells of.

So no end of an audit goes untold because a process died, and none is told of that did not happen.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update
from ulid import ULID

from peelbound.service.database.tables import AuditRow, DeliveryRow, WebhookRow
from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.webhook import (
    AuditMessage,
    DeliveryState,
    EndedAudit,
    ShortProblem,
    ShortVerdict,
    WebhookEvent,
)

_EVENTS = {
    AuditState.SUCCEEDED: WebhookEvent.SUCCEEDED,
    AuditState.FAILED: WebhookEvent.FAILED,
    AuditState.CANCELLED: WebhookEvent.CANCELLED,
}


def announce_end(connection: Connection, tenant: str, audit_id: str) -> None:
    """Write a message for each of the tenant's webhooks that wants to know how this audit has ended."""
    webhooks = connection.execute(
        select(WebhookRow.id, WebhookRow.events)
        .where(WebhookRow.tenant == tenant, WebhookRow.disabled_at.is_(None))
        .order_by(WebhookRow.id)
        .with_for_update(read=True, key_share=True)  # or one that is being deleted would fail the audit's transition
    ).all()
    if not webhooks:
        return
    audit = connection.execute(
        select(
            AuditRow.state,
            AuditRow.attempt,
            AuditRow.created_at,
            AuditRow.ended_at,
            AuditRow.run,
            AuditRow.step,
            AuditRow.summary,
            AuditRow.problem,
        ).where(AuditRow.tenant == tenant, AuditRow.id == audit_id)
    ).one()
    event = _EVENTS[audit.state]
    message = AuditMessage(type=event, timestamp=audit.ended_at, data=_ended(audit_id, audit)).model_dump_json()
    for webhook in webhooks:
        if event in webhook.events:
            write(connection, tenant, webhook.id, event, message, audit.ended_at, audit_id)


def outlive(connection: Connection, tenant: str, audit_id: str) -> None:
    """Let what is still to be sent of an audit outlive it: the audit is about to be deleted, whose row must be locked.

    What has been sent, or given up, goes with the audit, and these once they are (`Outbox.forget`).
    """
    connection.execute(
        update(DeliveryRow)
        .where(
            DeliveryRow.tenant == tenant,
            DeliveryRow.audit_id == audit_id,
            DeliveryRow.state == DeliveryState.PENDING,
        )
        .values(audit_id=None)
    )


def write(
    connection: Connection, tenant: str, webhook_id: str, kind: str, body: str, now: datetime, audit_id: str | None
) -> str:
    """Write a message to be sent now; its id."""
    delivery_id = str(ULID.from_datetime(now))
    connection.execute(
        insert(DeliveryRow).values(
            tenant=tenant,
            id=delivery_id,
            webhook_id=webhook_id,
            audit_id=audit_id,
            type=kind,
            body=body,
            state=DeliveryState.PENDING,
            attempts=0,
            failures=0,
            due_at=now,
            created_at=now,
        )
    )
    return delivery_id


def _ended(audit_id: str, audit: Any) -> EndedAudit:
    summary, problem = audit.summary, audit.problem
    here = f"/v1/audits/{audit_id}"
    return EndedAudit(
        id=audit_id,
        state=audit.state,
        attempt=audit.attempt,
        created_at=audit.created_at,
        ended_at=audit.ended_at,
        run=audit.run,
        step=audit.step,
        verdict=summary
        and ShortVerdict(
            status=summary.status,
            headline=summary.headline,
            inert_blocks=summary.inert_blocks,
            lagging_blocks=summary.lagging_blocks,
            untrained_blocks=summary.untrained_blocks,
        ),
        problem=problem and ShortProblem(type=problem.type, title=problem.title),
        links={"self": here, "report": f"{here}/report.json"}
        if audit.state is AuditState.SUCCEEDED
        else {"self": here},
    )
