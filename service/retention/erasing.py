"""The deletion of an audit: what is its own goes now, what it shared when it is collected."""

from peelbound.service.database.audits import Audits
from peelbound.service.database.log import Actor
from peelbound.service.storage.base import ObjectStore


def erase(audits: Audits, store: ObjectStore, tenant: str, audit_id: str, *, by: Actor | None) -> None:
    """Delete an ended audit: its report and other files, record, events and webhook deliveries.

    Messages that webhooks are still to be sent about it go once they were.

    Objects first: should this break off, the audit is still there to be deleted again.

    Raises:
        AuditNotFound: the tenant has no such audit.
        AuditNotEnded: it is still queued or at work.
    """
    audits.require_ended(tenant, audit_id)
    for stored in list(store.list(f"tenants/{tenant}/audits/{audit_id}/")):
        store.delete(stored.key)
    audits.delete(tenant, audit_id, by=by)
