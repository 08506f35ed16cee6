"""Find what is being sent to an endpoint, and which deliveries are to be forgotten, without reading all of them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

BEING_SENT = sa.text("lease_owner IS NOT NULL")
ORPHANED = sa.text("audit_id IS NULL AND type <> 'webhook.test'")


def upgrade() -> None:
    # They may have been built beforehand, concurrently (docs/operations.md).
    op.create_index(op.f("ix_webhook_deliveries_ended_at"), "webhook_deliveries", ["ended_at"], if_not_exists=True)
    op.create_index(
        "ix_webhook_deliveries_being_sent",
        "webhook_deliveries",
        ["tenant", "webhook_id"],
        sqlite_where=BEING_SENT,
        postgresql_where=BEING_SENT,
        if_not_exists=True,
    )
    op.create_index(
        "ix_webhook_deliveries_orphaned",
        "webhook_deliveries",
        ["ended_at"],
        sqlite_where=ORPHANED,
        postgresql_where=ORPHANED,
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_index("ix_webhook_deliveries_orphaned", "webhook_deliveries")
    op.drop_index("ix_webhook_deliveries_being_sent", "webhook_deliveries")
    op.drop_index(op.f("ix_webhook_deliveries_ended_at"), "webhook_deliveries")
