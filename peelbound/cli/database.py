"""The database of the settings, for commands that work on it without a server."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from peelbound.extras import require_server_extra
from peelbound.local import make_private, private_files

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from peelbound.service.database.log import Actor
    from peelbound.service.settings import Settings

_NEEDED = ("sqlalchemy", "alembic", "pydantic_settings")


def configured() -> "Settings":
    """The settings of the environment.

    Raises:
        ServerExtraMissing: the packages that a service needs are not installed.
    """
    require_server_extra(_NEEDED)
    from pydantic import ValidationError

    from peelbound.service.settings import Settings
    from peelbound.service.starting import wrong_settings

    try:
        return Settings()
    except ValidationError as error:
        raise click.UsageError(" ".join(wrong_settings(error))) from None


def opened(settings: "Settings", *, wait_seconds: float, migrating: bool = False) -> "Engine":
    """The database of these settings; a file in the state directory is its owner's alone.

    Raises:
        PeelboundError: the database cannot be used.
    """
    from peelbound.service.database.schema import open_database

    if not settings.database_url:
        make_private(settings.state_dir)
    with private_files():
        return open_database(settings.resolved_database_url, wait_seconds=wait_seconds, migrating=migrating)


@contextmanager
def service_database() -> "Iterator[Engine]":
    """The database, with the schema that this version wants.

    Raises:
        ServerExtraMissing: the packages that a service needs are not installed.
        PeelboundError: the database cannot be used.
    """
    engine = opened(configured(), wait_seconds=0)
    try:
        yield engine
    finally:
        engine.dispose()


def whoever_calls() -> "Actor":
    """The caller, for the action log."""
    from ulid import ULID

    from peelbound.service.database.log import Actor

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = "unknown"
    return Actor("cli", name, str(ULID()))
