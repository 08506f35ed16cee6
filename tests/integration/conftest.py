"""Real servers for the integration tests: every test that asks for a database runs on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine

from peelbound.service.database.engine import make_engine
from peelbound.service.database.schema import migrate
from tests.postgres_server import postgres_database, postgres_server

_database_numbers = count(1)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[URL]:
    """A PostgreSQL server; the URL is of its maintenance database."""
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database; the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'database' / 'peelbound.db'}"
        return
    server: URL = request.getfixturevalue("postgres_url")
    with postgres_database(server, f"test_{next(_database_numbers)}") as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a database with the newest schema."""
    engine = make_engine(database_url)
    migrate(engine)
    yield engine
    engine.dispose()
