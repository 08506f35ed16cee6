"""Keep audits for a time of their tenant's own, and condemn results before they are deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("audits", sa.Column("claimed_at", TIME, nullable=True))
    op.create_index(op.f("ix_audits_tenant_ended_at"), "audits", ["tenant", "ended_at"])
    op.add_column("tenants", sa.Column("keep_seconds", sa.BigInteger(), nullable=True))
    op.add_column("tenants", sa.Column("collect_at", TIME, nullable=True))
    op.create_table(
        "condemned_results",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("since", TIME, nullable=True),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_condemned_results")),
    )


def downgrade() -> None:
    op.drop_table("condemned_results")
    op.drop_column("tenants", "collect_at")
    op.drop_column("tenants", "keep_seconds")
    op.drop_index(op.f("ix_audits_tenant_ended_at"), "audits")
    op.drop_column("audits", "claimed_at")
