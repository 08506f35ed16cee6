"""`peelbound show`."""

import click

from peelbound.cli.failures import reporting
from peelbound.cli.output import json_option, print_json, record_table, stdout_console
from peelbound.client import Client


@click.command("show")
@click.argument("audit_id")
@json_option
@reporting
def command(audit_id: str, as_json: bool) -> None:
    """Show one audit: its state, progress, verdict or problem."""
    with Client() as client:
        record = client.get(audit_id)
    if as_json:
        print_json(record)
    else:
        stdout_console().print(record_table(record))
