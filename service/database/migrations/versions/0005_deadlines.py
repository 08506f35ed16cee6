"""Let audits have deadlines."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("audits", sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(op.f("ix_audits_deadline_at"), "audits", ["deadline_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_audits_deadline_at"), "audits")
    op.drop_column("audits", "deadline_at")
