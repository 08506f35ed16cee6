"""Real servers for the integration tests: every test that asks for a database runs on SQLite and on PostgreSQL.

Under `pytest -n` each process has servers of its own. The controller's tests share one service and its results, so they
stay in one process, which begins with them: they take longest. The others are handed out by file.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine

from peelbound.service.database.engine import make_engine
from peelbound.service.database.schema import migrate
from tests.postgres_server import postgres_database, postgres_server

_database_numbers = count(1)

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # pytest-xdist's own reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests stay together, and bring those that take longest to the front."""

    def place(item: pytest.Item) -> Path:
        return item.path.relative_to(HERE) if item.path.is_relative_to(HERE) else item.path

    for item in items:
        together = "controller" if place(item).parts[0] == "controller" else str(place(item))
        item.add_marker(pytest.mark.xdist_group(together))
    first = ("controller", "deploy")
    items.sort(key=lambda item: first.index(folder) if (folder := place(item).parts[0]) in first else len(first))


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
