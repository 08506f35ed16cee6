"""The schema's version: migrated once by many, and refused where it is another's."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, create_engine, text

from peelbound.embedded import embedded
from peelbound.service.database.engine import make_engine, writing
from peelbound.service.database.errors import DatabaseUnavailable, SchemaTooNew, SchemaTooOld
from peelbound.service.database.schema import (
    check_schema,
    known_revisions,
    migrate,
    newest_revision,
    open_database,
)
from peelbound.service.database.tokens import Tokens
from peelbound.service.settings import Settings
from tests.waiting import DEADLINE_SECONDS

PEELBOUND = Path(sysconfig.get_path("scripts"), "peelbound")
DIGEST = "65" * 32


@contextmanager
def on(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def old(database_url: str) -> str:
    """A database of the first release, with a token in it."""
    config = Config()
    config.set_main_option("script_location", "peelbound.service.database:migrations")
    with on(database_url) as engine, writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        columns = "digest, tenant, name, scopes, created_at"
        values = {"digest": DIGEST, "scopes": '["read"]', "at": "2026-01-01 00:00:00.000000"}
        connection.execute(
            text(f"INSERT INTO tokens ({columns}) VALUES (:digest, 'acme', 'old', :scopes, :at)"), values
        )
    return database_url


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PEELBOUND_")}
    return kept | {"PEELBOUND_DATABASE_URL": url} | more


def test_the_names_of_the_migrations_are_the_revisions_that_alembic_finds_in_them() -> None:
    config = Config()
    config.set_main_option("script_location", "peelbound.service.database:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert known_revisions() == {script.revision for script in scripts.walk_revisions()}
    assert newest_revision() == scripts.get_current_head()


def test_an_old_schema_is_refused_until_it_is_migrated_and_keeps_its_rows(old: str) -> None:
    with on(old) as engine:
        with pytest.raises(SchemaTooOld, match="0001") as caught:
            check_schema(engine)
        assert "peelbound migrate" in caught.value.remedy
        migrate(engine)
        check_schema(engine)
        (token,) = Tokens(engine).listed()
        assert (token.tenant, token.name, token.expires_at) == ("acme", "old", None)


def test_an_empty_database_is_refused_where_it_is_shared(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        open_database(database_url, wait_seconds=0).dispose()
    else:
        with pytest.raises(SchemaTooOld, match="no schema"):
            open_database(database_url, wait_seconds=0)
        open_database(database_url, wait_seconds=0, migrating=True).dispose()
    with on(database_url) as engine:
        check_schema(engine)


def test_a_service_on_one_machine_does_not_migrate_what_is_shared(old: str, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", port=0, database_url=old, database_wait_seconds=0)
    if old.startswith("sqlite"):
        with embedded(settings, controller=None):
            pass
        return
    with pytest.raises(SchemaTooOld, match="0001"), embedded(settings, controller=None):
        pass
    with on(old) as engine, pytest.raises(SchemaTooOld, match="0001"):
        check_schema(engine)


def test_a_newer_schema_is_refused_by_all(old: str) -> None:
    with on(old) as engine:
        migrate(engine)
        with writing(engine) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        for attempt in (check_schema, migrate):
            with pytest.raises(SchemaTooNew, match="9999") as caught:
                attempt(engine)
            assert "newer" in caught.value.remedy
        with pytest.raises(SchemaTooNew):
            open_database(old, wait_seconds=10, migrating=True)


def test_many_replicas_may_migrate_at_once(old: str) -> None:
    processes = [
        subprocess.Popen([PEELBOUND, "migrate"], env=environment(old), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(5)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0, errors.decode()
        assert newest_revision() in output.decode()
    with on(old) as engine:
        check_schema(engine)
        assert [token.name for token in Tokens(engine).listed()] == ["old"]


def test_a_migration_that_another_holds_up_is_given_up_and_changes_nothing(old: str) -> None:
    with on(old) as engine, on(old) as other:
        if engine.dialect.name == "sqlite":
            other = create_engine(other.url, connect_args={"timeout": 0.1})
            with writing(engine), pytest.raises(DatabaseUnavailable):
                migrate(other)
            other.dispose()
        else:
            with writing(other) as reader:
                reader.execute(text("SELECT * FROM tokens"))
                with pytest.raises(DatabaseUnavailable, match="lock timeout"):  # soon: heartbeats queue behind it
                    migrate(engine, lock_seconds=10 * int(DEADLINE_SECONDS))
        with pytest.raises(SchemaTooOld, match="0001"):
            check_schema(engine)


def test_a_database_that_comes_up_late_is_waited_for(postgres_url: URL, caplog: pytest.LogCaptureFixture) -> None:
    late = postgres_url.set(database="late_comer").render_as_string(hide_password=False)
    maintenance = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            with maintenance.connect() as connection:
                connection.execute(text("CREATE DATABASE late_comer"))

    try:
        open_database(late, wait_seconds=1000, pause=pause, migrating=True).dispose()
    finally:
        with maintenance.connect() as connection:
            connection.execute(text("DROP DATABASE IF EXISTS late_comer WITH (FORCE)"))
        maintenance.dispose()
    assert len(pauses) == 3
    assert sum("waiting for the database" in record.message for record in caplog.records) == 3


def test_a_database_that_stays_away_ends_the_wait_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="PEELBOUND_DATABASE_WAIT_SECONDS") as caught:
        open_database(f"postgresql+psycopg://nobody@/none?host={tmp_path}", wait_seconds=0)
    assert str(tmp_path) in caught.value.detail


@pytest.mark.parametrize(
    "program",
    [
        pytest.param([sys.executable, "-P", "-m", "peelbound.service.controller"], id="controller"),
        pytest.param(
            [sys.executable, "-P", "-m", "uvicorn", "--factory", "peelbound.api.app:create_app", "--port", "0"],
            id="api",
        ),
        pytest.param([str(PEELBOUND), "migrate"], id="migrate"),
    ],
)
def test_a_process_without_its_database_says_so_and_ends(tmp_path: Path, program: list[str]) -> None:
    away = environment(
        f"postgresql+psycopg://nobody@/none?host={tmp_path}",
        PEELBOUND_DATABASE_WAIT_SECONDS="0.1",
        PEELBOUND_STATE_DIR=str(tmp_path),
    )
    done = subprocess.run(program, env=away, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == 3
    assert "waiting for the database" in done.stderr
    assert "The database is not available" in done.stderr


def test_a_process_on_an_old_schema_says_what_to_run(old: str, tmp_path: Path) -> None:
    if old.startswith("sqlite"):
        old += "/not-a-directory/below-a-file.db"
        expected = "database"
    else:
        expected = "peelbound migrate"
    program = [str(PEELBOUND), "token", "list"]
    done = subprocess.run(
        program, env=environment(old), cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 3
    assert expected in done.stderr
