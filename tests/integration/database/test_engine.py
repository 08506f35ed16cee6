"""Connections and migrations, with several processes as in production."""

import multiprocessing
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
        process.join(timeout=120)
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


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite://", "sqlite:///:memory:", "not a url", "postgres://h/d"])
def test_a_url_of_something_else_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUrlInvalid):
        make_engine(url)


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
