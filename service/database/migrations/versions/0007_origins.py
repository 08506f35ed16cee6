"""Keep by which request an audit came and the trace it belongs to."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("requests", sa.Column("request_id", sa.Text(), nullable=True))
    op.add_column("requests", sa.Column("traceparent", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("requests", "traceparent")
    op.drop_column("requests", "request_id")
