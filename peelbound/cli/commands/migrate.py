"""`peelbound migrate`."""

import logging

import click

from peelbound.cli.database import configured, opened
from peelbound.cli.failures import reporting


@click.command("migrate")
@reporting
def command() -> None:
    """Bring the database of the settings to the schema of this version.

    Safe to run from every replica at once: one migrates, the others wait for it.
    """
    settings = configured()
    from peelbound.service.database.schema import newest_revision

    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    opened(settings, wait_seconds=settings.database_wait_seconds, migrating=True).dispose()
    click.echo(f"The schema is at revision {newest_revision()}.")
