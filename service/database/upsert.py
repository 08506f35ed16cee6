"""INSERT … ON CONFLICT, which PostgreSQL and SQLite both have and SQLAlchemy offers by dialect."""

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from peelbound.service.database.tables import Table


def conflicting_insert(connection: Connection, table: type[Table]) -> Any:
    """The dialect's INSERT, with `on_conflict_do_nothing` and `on_conflict_do_update` of the same signature."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
