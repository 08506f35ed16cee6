"""Create the tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)


def one_of(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def of_audit(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant", "audit_id"], ["audits.tenant", "audits.id"], name=op.f(f"fk_{table}_audits"), ondelete="CASCADE"
    )


def upgrade() -> None:
    op.create_table(
        "audits",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column(
            "state",
            one_of("state", "queued", "running", "cancelling", "succeeded", "failed", "cancelled"),
            nullable=False,
        ),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("event_count", sa.Integer(), nullable=False),
        sa.Column("claimable_at", TIME, nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("checkpoint", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("training_loss", sa.Double(), nullable=True),
        sa.Column("request_bytes", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.Column("manifest_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "id", name=op.f("pk_audits")),
        sa.UniqueConstraint("tenant", "idempotency_key", name=op.f("uq_audits_tenant_idempotency_key")),
    )
    op.create_index(op.f("ix_audits_claimable_at"), "audits", ["claimable_at"])
    op.create_index(op.f("ix_audits_tenant_run_step"), "audits", ["tenant", "run", "step"])
    op.create_index(op.f("ix_audits_tenant_state_id"), "audits", ["tenant", "state", "id"])
    op.create_table(
        "requests",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        of_audit("requests"),
        sa.PrimaryKeyConstraint("tenant", "audit_id", name=op.f("pk_requests")),
    )
    op.create_table(
        "labels",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        of_audit("labels"),
        sa.PrimaryKeyConstraint("tenant", "audit_id", "name", name=op.f("pk_labels")),
    )
    op.create_index(op.f("ix_labels_tenant_name_value_audit_id"), "labels", ["tenant", "name", "value", "audit_id"])
    op.create_table(
        "events",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("type", one_of("type", "state", "progress", "retry"), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        of_audit("events"),
        sa.PrimaryKeyConstraint("tenant", "audit_id", "number", name=op.f("pk_events")),
    )
    op.create_table(
        "tokens",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_tokens")),
        sa.UniqueConstraint("tenant", "name", name=op.f("uq_tokens_tenant_name")),
    )
    op.create_table(
        "controllers",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_controllers")),
    )


def downgrade() -> None:
    for table in ("controllers", "tokens", "events", "labels", "requests", "audits"):
        op.drop_table(table)
