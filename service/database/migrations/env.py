"""Alembic's entry: migrates over the connection that `migrate` passes, or that the settings name (command line).

Tables are never altered by copying them (Alembic's batch mode): with foreign keys on, SQLite's DROP TABLE deletes the
rows that refer to the table.
"""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.types import TypeDecorator

from peelbound.service.database.engine import make_engine
from peelbound.service.database.tables import Table
from peelbound.service.settings import Settings


def plain_type(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write our column types into a migration as what they are in the database: code changes, migrations do not."""
    return f"sa.{item.impl_instance!r}" if kind == "type" and isinstance(item, TypeDecorator) else False


def run(connection: Connection) -> None:
    """Run the migrations inside the connection's transaction."""
    context.configure(
        connection=connection, target_metadata=Table.metadata, transactional_ddl=True, render_item=plain_type
    )
    with context.begin_transaction():
        context.run_migrations()


if "connection" in context.config.attributes:
    run(context.config.attributes["connection"])
else:
    with make_engine(Settings().resolved_database_url).begin() as own_connection:
        run(own_connection)
