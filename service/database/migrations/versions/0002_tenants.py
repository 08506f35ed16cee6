"""Let tokens expire, keep a log of who changed what, and count what a tenant uses."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("tokens", sa.Column("expires_at", TIME, nullable=True))
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("measured_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tenants")),
    )
    op.create_table(
        "action_log",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("actor_name", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id", name=op.f("pk_action_log")),
    )
    op.create_index(op.f("ix_action_log_tenant_target_id"), "action_log", ["tenant", "target", "id"])
    for statement in append_only():
        op.execute(statement)


def append_only() -> list[str]:
    """Statements after which no entry of the log can be changed or deleted."""
    if op.get_bind().dialect.name == "postgresql":
        return [
            "CREATE FUNCTION action_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the action log is append-only'; END $$",
            "CREATE TRIGGER action_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON action_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION action_log_is_append_only()",
        ]
    return [
        f"CREATE TRIGGER action_log_is_append_only_on_{change} BEFORE {change.upper()} ON action_log "
        "BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END"
        for change in ("update", "delete")
    ]


def downgrade() -> None:
    op.drop_table("action_log")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION action_log_is_append_only()")
    op.drop_table("tenants")
    op.drop_column("tokens", "expires_at")
