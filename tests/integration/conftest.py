"""Real servers for the integration tests: every test that asks for a database runs on SQLite and on PostgreSQL.

Under `pytest -n` each process has servers of its own. Most of the controller's tests share one service and its results,
so they stay in one process, which begins with them. The others are handed out by file, what takes longest first.
"""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from peelbound.service.database.engine import make_engine
from peelbound.service.database.schema import migrate
from tests.postgres_server import postgres_database, postgres_server

_database_numbers = count(1)

TOGETHER = "tests/integration/controller"
"""The folder whose tests one process takes …"""
APART = "tests/integration/controller/apart"
"""… but for those in here, which start controllers of their own."""
FIRST = (TOGETHER, "tests/faults", "tests/integration/deploy", APART)
"""Faults, where they are asked for too, and the topology come before those that are apart: these compare with reports
that the service's process makes."""


def _place(nodeid: str) -> str:
    """The folder among `FIRST` that a test lies in, or else its file."""
    folders = [name for name in FIRST if nodeid.startswith(f"{name}/")]
    return max(folders, key=len) if folders else nodeid.partition("::")[0]


class ByFile(LoadFileScheduling):
    """Hands the tests out by file, those of one folder together."""

    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER if _place(nodeid) == TOGETHER else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Say who hands the tests out. The marks that pytest-xdist has for this go unheard since pytest 9.2."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring those that take longest to the front."""
    order = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(_place(item.nodeid), len(order)))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[URL]:
    """A PostgreSQL server; the URL is of its maintenance database."""
    with postgres_server(lasting=False) as url:
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


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the newest schema, to be copied: that is quicker than to migrate each time."""
    file = tmp_path_factory.mktemp("migrated") / "peelbound.db"
    _migrated(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def migrated_template(postgres_url: URL) -> Iterator[str]:
    """The same on PostgreSQL; the name of the database."""
    with postgres_database(postgres_url, "migrated") as url:
        _migrated(url)
        yield "migrated"


def _migrated(url: str) -> None:
    engine = make_engine(url)
    migrate(engine)
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with the newest schema and nothing in it, of both kinds as `database_url`."""
    if request.param == "sqlite":
        file = tmp_path / "database" / "peelbound.db"
        file.parent.mkdir()
        shutil.copy(request.getfixturevalue("migrated_file"), file)
        yield f"sqlite:///{file}"
        return
    server: URL = request.getfixturevalue("postgres_url")
    template: str = request.getfixturevalue("migrated_template")
    with postgres_database(server, f"test_{next(_database_numbers)}", template) as url:
        yield url


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """An engine on a database with the newest schema."""
    engine = make_engine(migrated_url)
    yield engine
    engine.dispose()
