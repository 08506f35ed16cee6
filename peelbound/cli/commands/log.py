"""`peelbound log`."""

import click

from peelbound.cli.database import service_database
from peelbound.cli.failures import reporting
from peelbound.cli.output import json_option, print_columns, print_json


@click.command("log")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--target", help="Only what concerns this id or name.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@json_option
@reporting
def command(tenant: str | None, target: str | None, limit: int, as_json: bool) -> None:
    """Say who changed what, newest first; works on the database, no server needs to run."""
    with service_database() as engine:
        from peelbound.service.database.log import Log

        page = Log(engine).page(tenant, target=target, limit=limit)
    if as_json:
        print_json(page)
        return
    print_columns(
        ("time (UTC)", "tenant", "actor", "name", "action", "target", "request"),
        (
            (f"{it.at:%Y-%m-%d %H:%M:%S}", it.tenant, it.actor, it.actor_name, it.action, it.target, it.request_id)
            for it in page.items
        ),
    )
