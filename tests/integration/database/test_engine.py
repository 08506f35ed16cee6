"""Connections and migrations, with several processes as in production."""

import multiprocessing
import os
import socket
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, Engine, inspect
from sqlalchemy.exc import ProgrammingError

from peelbound.service.database.audits import Audits
from peelbound.service.database.engine import database_clock, make_engine, reading, writing
from peelbound.service.database.errors import DatabaseUnavailable, DatabaseUrlInvalid
from peelbound.service.database.schema import migrate
from peelbound.service.database.tables import Table
from peelbound.service.schemas.record import AuditState, EventType
from tests.integration.database.harness import a_request
from tests.waiting import DEADLINE_SECONDS


def test_the_migrated_schema_is_the_tables(engine: Engine) -> None:
    with reading(engine) as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_the_schemas_checks_know_every_state_and_type(engine: Engine) -> None:
    """Autogenerate does not compare checks, so a new state needs this test to ask for its migration."""
    words = {
        check["name"]: set(check["sqltext"].split("'")[1::2])
        for table in ("audits", "events")
        for check in inspect(engine).get_check_constraints(table)
    }
    assert words == {"ck_audits_state": set(AuditState), "ck_events_type": set(EventType)}


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    record, _ = Audits(engine).submit("acme", a_request(), None)
    migrate(engine)
    assert Audits(engine).get("acme", record.id) == record


def _migrate_and_submit(url: str) -> None:
    engine = make_engine(url)
    migrate(engine)
    Audits(engine).submit("acme", a_request(), None)


def test_processes_that_start_at_once_migrate_once_and_share_the_database(database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_migrate_and_submit, args=(database_url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=DEADLINE_SECONDS)
    assert [process.exitcode for process in processes] == [0] * 4
    engine = make_engine(database_url)
    assert len(Audits(engine).page("acme").items) == 4
    engine.dispose()


def test_the_clock_is_aware_and_the_databases(engine: Engine) -> None:
    with reading(engine) as connection:
        now = database_clock(connection)
    assert now.utcoffset() == timedelta()
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)


def test_what_a_failing_block_wrote_is_not_there(engine: Engine) -> None:
    def fail_after_writing() -> None:
        with writing(engine) as connection:
            connection.exec_driver_sql("INSERT INTO controllers VALUES ('one', '2026-01-01 00:00:00')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_writing()
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM controllers").scalar() == 0


def test_a_reader_is_not_held_up_by_a_writer(engine: Engine) -> None:
    audits = Audits(engine)
    record, _ = audits.submit("acme", a_request(), None)
    with writing(engine) as connection:
        connection.exec_driver_sql("UPDATE audits SET attempt = 9")
        assert audits.get("acme", record.id).attempt == 0
    assert audits.get("acme", record.id).attempt == 9


@pytest.mark.parametrize(
    "url",
    [
        "mysql://host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "not a url",
        "postgres://u:secret@h/d",
        "postgresql://u:secret@h/d",
        "postgresql+asyncpg://u:secret@h/d",
        "postgresql+psycopg://u:secret@h:port/d",
        "postgresql+psycopg://u:pass@h:secret@h/d",
        "sqlite+aiosqlite:////tmp/a.db",
    ],
)
def test_a_url_of_something_else_is_refused_by_its_variable_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseUrlInvalid) as caught:
        make_engine(url)
    assert "PEELBOUND_DATABASE_URL" in str(caught.value)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_an_unreachable_server_is_an_infrastructure_error(tmp_path: Path) -> None:
    engine = make_engine(f"postgresql+psycopg://nobody@/none?host={tmp_path}")
    with pytest.raises(DatabaseUnavailable) as caught:
        Audits(engine).get("acme", "x")
    assert "PEELBOUND_DATABASE_URL" in caught.value.remedy


def test_sqlite_is_set_up_for_several_processes(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'new' / 'dir' / 'a.db'}")
    with reading(engine) as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        assert raw.isolation_level is None
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}


@contextmanager
def on_tcp(server: URL) -> Iterator[URL]:
    """The server, which listens on a Unix socket only, on a port of loopback."""
    path = f"{server.query['host']}/.s.PGSQL.{server.port or 5432}"

    class Handler(BaseRequestHandler):
        request: socket.socket

        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as upstream:
                upstream.connect(path)
                answers = Thread(target=pass_on, args=(upstream, self.request), daemon=True)
                answers.start()
                pass_on(self.request, upstream)
                answers.join()

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield server.set(host="127.0.0.1", port=listener.server_address[1], query={})
        finally:
            listener.shutdown()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, {"user": 20_000, "idle": 10, "interval": 5, "count": 3, "connect": "10"}),
        (
            {"tcp_user_timeout": "60000", "keepalives_idle": "7", "connect_timeout": "3"},
            {"user": 60_000, "idle": 7, "interval": 5, "count": 3, "connect": "3"},
        ),
    ],
    ids=["ours", "the URL's"],
)
def test_a_connection_notices_when_the_servers_machine_is_gone(
    postgres_url: URL, query: dict[str, str], expected: dict[str, object]
) -> None:
    """As the kernel has it, on the connection's own socket."""
    options = {
        "user": socket.TCP_USER_TIMEOUT,
        "idle": socket.TCP_KEEPIDLE,
        "interval": socket.TCP_KEEPINTVL,
        "count": socket.TCP_KEEPCNT,
    }
    with on_tcp(postgres_url) as url:
        engine = make_engine(url.update_query_dict(query).render_as_string(hide_password=False))
        with reading(engine) as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            with socket.socket(fileno=os.dup(driver.fileno())) as client:
                found: dict[str, object] = {n: client.getsockopt(socket.IPPROTO_TCP, o) for n, o in options.items()}
                assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            found["connect"] = driver.info.get_parameters()["connect_timeout"]
        engine.dispose()
    assert found == expected


def test_a_connection_cut_by_the_server_is_an_infrastructure_error_and_the_next_works(postgres_url: URL) -> None:
    engine = make_engine(postgres_url.render_as_string(hide_password=False))

    def be_cut_off() -> None:
        with writing(engine) as connection:
            own_pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            with writing(engine) as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({own_pid}, 10000)")
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        be_cut_off()
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()


@pytest.mark.parametrize("rested", [True, False])
def test_a_connection_that_the_server_ended_while_it_rested_is_noticed_before_it_is_used(
    postgres_url: URL, monkeypatch: pytest.MonkeyPatch, rested: bool
) -> None:
    """One that rested for a moment only is not asked: then the first statement fails, and those after it do not."""
    if rested:
        monkeypatch.setattr("peelbound.service.database.engine.PING_AFTER_SECONDS", 0.0)
    engine = make_engine(postgres_url.render_as_string(hide_password=False))
    other = make_engine(postgres_url.render_as_string(hide_password=False))

    def read() -> int:
        with reading(engine) as connection:
            return connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

    first = read()
    assert read() == first
    with writing(other) as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({first}, 10000)")
    if not rested:
        with pytest.raises(DatabaseUnavailable):
            read()
    assert read() != first
    engine.dispose()
    other.dispose()


def test_a_busy_connection_is_not_asked_whether_it_is_there(postgres_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(postgres_url.render_as_string(hide_password=False))
    ping, pings = engine.dialect.do_ping, list[Any]()

    def counted(connection: Any) -> bool:
        pings.append(connection)
        return ping(connection)

    monkeypatch.setattr(engine.dialect, "do_ping", counted)
    monkeypatch.setattr("peelbound.service.database.engine.PING_AFTER_SECONDS", 3600.0)
    for _ in range(3):
        with reading(engine) as connection:
            connection.exec_driver_sql("SELECT 1")
    assert pings == []
    monkeypatch.setattr("peelbound.service.database.engine.PING_AFTER_SECONDS", 0.0)
    with reading(engine) as connection:
        connection.exec_driver_sql("SELECT 1")
    assert len(pings) == 1
    engine.dispose()


def test_a_server_that_takes_no_writes_is_an_infrastructure_error_and_is_left(postgres_url: URL) -> None:
    """As after a failover, when a pooled connection still leads to the old primary."""
    engine = make_engine(postgres_url.render_as_string(hide_password=False))

    def write_to_the_old_primary() -> None:
        with writing(engine) as connection:
            pids.append(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
            connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            connection.exec_driver_sql("CREATE TABLE unwanted (a int)")

    pids: list[int] = []
    with pytest.raises(DatabaseUnavailable):
        write_to_the_old_primary()
    with writing(engine) as connection:
        pids.append(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        connection.exec_driver_sql("CREATE TEMPORARY TABLE wanted (a int)")
    engine.dispose()
    assert pids[0] != pids[1]


def test_a_transaction_that_has_failed_already_is_an_infrastructure_error(postgres_url: URL) -> None:
    engine = make_engine(postgres_url.render_as_string(hide_password=False))

    def go_on_after_an_error() -> None:
        with writing(engine) as connection:
            with pytest.raises(ProgrammingError):
                connection.exec_driver_sql("SELECT * FROM nowhere")
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        go_on_after_an_error()
    engine.dispose()
