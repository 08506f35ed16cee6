"""The schema's version: brought up to date by one process, checked by all others before they start.

A SQLite file belongs to one machine's service, which migrates it when it starts. A PostgreSQL database is shared by
replicas of maybe two versions, so there only `peelbound migrate` changes the schema, and everything else refuses to
start on another schema than its own.
"""

import logging
import time
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from sqlalchemy import Connection, Engine, func, inspect, select, text

from peelbound.service.database import migrations
from peelbound.service.database.engine import BUSY_SECONDS, make_engine, reading, writing
from peelbound.service.database.errors import DatabaseUnavailable, SchemaTooNew, SchemaTooOld

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 1.0

TABLE_SECONDS = 2
"""How long a migration waits for each table. Whoever wants the table after it waits too, heartbeats among them, so this
is far less than a lease lasts; it is tried again."""

_MIGRATION_LOCK = 0x7065656C626E64
"""Key of PostgreSQL's advisory lock around migrations ("peelbnd")."""


@cache
def known_revisions() -> frozenset[str]:
    """The revisions that this code knows, by the names of their files.

    Alembic would tell as well, but only whoever migrates imports it: `token list` takes 1.0 s of CPU instead of 1.4 s.
    """
    names = (file.name.partition("_")[0] for file in files(f"{migrations.__name__}.versions").iterdir())
    return frozenset(name for name in names if name.isdecimal())


def newest_revision() -> str:
    """The revision that this code wants."""
    return max(known_revisions())


def revision_of(connection: Connection) -> str | None:
    """The database's revision; None before its first migration.

    Raises:
        SchemaTooNew: a revision that this code does not know.
    """
    migrated = inspect(connection).has_table("alembic_version")
    revision = connection.scalar(text("SELECT version_num FROM alembic_version")) if migrated else None
    if revision is not None and revision not in known_revisions():
        raise SchemaTooNew(
            f"The database's schema has revision {revision}, which this version does not know; its own is "
            f"{newest_revision()}.",
            remedy="Run the version of Peelbound that migrated the database, or a newer one.",
        )
    return revision


def migrate(engine: Engine, *, lock_seconds: int = BUSY_SECONDS) -> None:
    """Bring the schema to the newest revision, in one transaction; of several processes one does it, the others wait.

    Args:
        engine: the database.
        lock_seconds: how long to wait on PostgreSQL for the other processes.

    Raises:
        DatabaseUnavailable: the database cannot be reached, another process has been migrating for too long, or holds a
            table for longer than `TABLE_SECONDS`.
        SchemaTooNew: a newer version has migrated it.
    """
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{int(lock_seconds)}s'"))
            connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        if revision_of(connection) != newest_revision():
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SET LOCAL lock_timeout = '{TABLE_SECONDS}s'"))
            _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "peelbound.service.database:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check_schema(engine: Engine) -> None:
    """See that the schema is this code's.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
        SchemaTooOld, SchemaTooNew: it is another's.
    """
    with reading(engine) as connection:
        revision = revision_of(connection)
    if revision != newest_revision():
        found = "has no schema yet" if revision is None else f"has a schema of revision {revision}"
        raise SchemaTooOld(
            f"The database {found}; this version wants {newest_revision()}.",
            remedy="Run: peelbound migrate",
        )


def open_database(
    url: str, *, wait_seconds: float, pause: Callable[[float], Any] = time.sleep, migrating: bool = False
) -> Engine:
    """An engine on a database that answers and has this code's schema.

    A database that does not answer is asked again until the time is over; each time the log says so.

    Args:
        url: the database's.
        wait_seconds: how long to wait for the database to answer.
        pause: sleeps; may raise to end the wait.
        migrating: whether to migrate PostgreSQL too, instead of refusing another schema.

    Raises:
        DatabaseUrlInvalid: the URL is not one of a database that we run on.
        DatabaseUnavailable: it did not answer in all that time; the message says for how long and why.
        SchemaTooOld, SchemaTooNew: its schema is another version's.
    """
    engine = make_engine(url)
    began = time.monotonic()
    while True:
        try:
            if migrating or engine.dialect.name == "sqlite":
                migrate(engine)
            else:
                check_schema(engine)
            return engine
        except DatabaseUnavailable as error:
            waited = time.monotonic() - began
            if waited >= wait_seconds:
                engine.dispose()
                raise DatabaseUnavailable(
                    f"{error.detail} It was asked for {waited:.0f} s (PEELBOUND_DATABASE_WAIT_SECONDS).",
                    remedy="See that the server that PEELBOUND_DATABASE_URL names is up and can be reached.",
                ) from error
            log.warning("waiting for the database, %.0f s of at most %g s: %s", waited, wait_seconds, error.detail)
            pause(min(ASK_AGAIN_SECONDS, wait_seconds - waited))
        except BaseException:
            engine.dispose()
            raise
