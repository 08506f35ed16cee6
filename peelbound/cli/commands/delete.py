"""`peelbound delete`."""

import json

import click

from peelbound.cli.failures import reporting
from peelbound.cli.output import json_option
from peelbound.client import Client


@click.command("delete")
@click.argument("audit_id")
@json_option
@reporting
def command(audit_id: str, as_json: bool) -> None:
    """Delete an ended audit with its report and files."""
    with Client() as client:
        client.delete(audit_id)
    click.echo(json.dumps({"deleted": audit_id}) if as_json else f"Deleted {audit_id}.")
