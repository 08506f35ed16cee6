"""Connections to the database: one way to read, one way to write, one clock, on PostgreSQL and SQLite alike.

When the connection breaks during COMMIT, nobody knows whether the transaction took place. `DatabaseUnavailable` is then
raised as for any other lost connection, and the caller finds out by calling again: every operation of this package may
be repeated (`Audits.submit` when it has an idempotency key), and `Leases.succeed` answers True for its own publication.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection as SQLiteConnection
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    InterfaceError,
    InternalError,
    InvalidatePoolError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from peelbound.service.database.columns import UtcDateTime
from peelbound.service.database.errors import DatabaseUnavailable, DatabaseUrlInvalid, ValueRefused

BUSY_SECONDS = 30
"""How long a writer on SQLite waits for the others, and a process for its turn to migrate."""

IDLE_SECONDS = 15
"""PostgreSQL ends a transaction in which its client has been silent for this long."""

PING_AFTER_SECONDS = 1.0
"""A pooled connection to PostgreSQL that has rested for longer is asked whether it is still there before it is used.

After a restart of the server the first statements on those that rested for less fail, as any that were under way.
"""
_LEFT_AT = "left_at"

_NETWORK = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
"""libpq's parameters of every connection, in s but for the last, in ms; the URL may say otherwise.

A machine that is gone, or a path to it, is noticed within 25 s, so that a heartbeat fails before the lease that it was
to renew has run out. Left to itself a kernel sends for a quarter of an hour, and waits for an answer for ever.
"""

_DRIVERS = {"postgresql": ("psycopg",), "sqlite": ("pysqlite", "")}
"""Those that we install, by database; without a name SQLAlchemy takes another one for PostgreSQL."""

_READ_ONLY_TRANSACTION = "25006"
"""PostgreSQL's SQLSTATE for a write where only reading is allowed."""

_READS: dict[str, Mapping[str, Any]] = {
    # Statements of a transaction see what was committed before each of them anyhow (READ COMMITTED), so the round trips
    # that begin and end one buy nothing.
    "postgresql": {"isolation_level": "AUTOCOMMIT"},
    "sqlite": {"reads": True},
}
"""How a connection is told that it will only read, by dialect."""

Clock = Callable[[Connection], datetime]
"""Tells the time inside a transaction."""


def make_engine(url: str) -> Engine:
    """Connect lazily to `sqlite:///path` or `postgresql+psycopg://…`; a SQLite file's directory is made, and private.

    Raises:
        DatabaseUrlInvalid: another database or driver, or SQLite without a file (memory is not shared between
            processes).
    """
    parsed = _parsed(url)
    return _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL, which `make_engine` would make; None for a server's.

    Raises:
        DatabaseUrlInvalid: it cannot be parsed, or is of another database or driver.
    """
    parsed = _parsed(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: the port is no number
        # Without the cause, which may quote a part of the URL.
        raise _url_invalid("cannot be parsed") from None
    backend, _, driver = parsed.drivername.partition("+")
    if backend not in _DRIVERS:
        raise _url_invalid(f"is for {backend}")
    if driver not in _DRIVERS[backend]:
        raise _url_invalid(f"asks for another driver than {_DRIVERS[backend][0]}")
    return parsed


def _url_invalid(what: str) -> DatabaseUrlInvalid:
    # The URL itself stays out of the message: it may hold a password.
    return DatabaseUrlInvalid(
        f"The database's URL {what}.",
        remedy="Let PEELBOUND_DATABASE_URL be sqlite:////absolute/path.db or postgresql+psycopg://user@host/database.",
    )


def _postgresql(url: URL) -> Engine:
    network = {name: value for name, value in _NETWORK.items() if name not in url.query}
    engine = create_engine(url, connect_args=network)

    @event.listens_for(engine, "connect")
    def end_forgotten_transactions(connection: Any, _entry: ConnectionPoolEntry) -> None:
        # A process that is stopped in a transaction would keep its locks, and with them all claims, for ever.
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
        connection.commit()

    @event.listens_for(engine, "checkin")
    def note_the_time(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_LEFT_AT] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def see_that_it_is_there(connection: Any, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        # SQLAlchemy's own ping is a round trip at every checkout, which costs a busy process as much as its queries.
        if time.monotonic() - entry.info.get(_LEFT_AT, math.inf) < PING_AFTER_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError("The connection was lost while it rested.") from error

    @event.listens_for(engine, "handle_error")
    def leave_a_demoted_server(context: ExceptionContext) -> None:
        # After a failover pooled connections may still lead to the old primary, which answers pings but takes no
        # writes: only new ones reach the new primary.
        if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY_TRANSACTION:
            context.is_disconnect = True

    return engine


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise _url_invalid("names no file")
    Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: SQLiteConnection, _entry: ConnectionPoolEntry) -> None:
        # Driver autocommit: left to itself, the driver begins transactions late and deferred, and a read that turns
        # into a write then fails at once with "database is locked" however long the busy timeout is.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that commits at the end of the block and rolls back on an exception.

    Raises:
        DatabaseUnavailable: no connection, lost on the way (maybe during COMMIT), busy for too long, or a server that
            takes no writes (after a failover).
        ValueRefused: a value that the database cannot hold.
    """
    with _typed_errors(), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction for reading only: on SQLite it neither waits for a writer nor holds one up.

    Raises:
        DatabaseUnavailable: no connection, or lost on the way.
        ValueRefused: a value that the database cannot compare with.
    """
    with _typed_errors(), engine.connect() as connection:
        yield connection.execution_options(**_READS[engine.dialect.name])


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise ValueRefused(
            f"The database refused a value: {error.orig}", remedy="Leave out NUL characters and numbers out of range."
        ) from error
    except (OperationalError, InterfaceError, InternalError, PoolTimeout) as error:
        cause: Any = getattr(error, "orig", None) or error
        raise DatabaseUnavailable(
            f"The database is not available: {cause}",
            remedy="Try again: nothing is lost. If it lasts, see that the server that PEELBOUND_DATABASE_URL names is "
            "up, can be reached and takes writes.",
        ) from error


def database_clock(connection: Connection) -> datetime:
    """The time on the database's own clock, so that leases do not depend on how well the machines' clocks agree.

    SQLite runs inside this process, and all processes that share a file share its machine: there the process's clock
    is the database's.
    """
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    return connection.scalars(select(func.clock_timestamp(type_=UtcDateTime))).one()
