"""Remember when each tenant was last served, so that tenants take turns."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # A table of its own: claims write it, and must wait neither for those who submit nor for a lock on a table in use.
    op.create_table(
        "turns",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_turns")),
    )


def downgrade() -> None:
    op.drop_table("turns")
