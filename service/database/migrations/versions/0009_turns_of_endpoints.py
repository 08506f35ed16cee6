"""Find the oldest message of each endpoint that waits, without reading all that do."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

PENDING = sa.text("due_at IS NOT NULL")


def upgrade() -> None:
    # It may have been built beforehand, concurrently (docs/operations.md).
    op.create_index(
        "ix_webhook_deliveries_pending",
        "webhook_deliveries",
        ["tenant", "webhook_id", "due_at", "id"],
        sqlite_where=PENDING,
        postgresql_where=PENDING,
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_index("ix_webhook_deliveries_pending", "webhook_deliveries")
