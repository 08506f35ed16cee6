"""`peelbound cancel`."""

import click

from peelbound.cli.failures import reporting
from peelbound.cli.output import json_option, print_json
from peelbound.client import Client


@click.command("cancel")
@click.argument("audit_id")
@json_option
@reporting
def command(audit_id: str, as_json: bool) -> None:
    """Cancel an audit."""
    with Client() as client:
        record = client.cancel(audit_id)
    if as_json:
        print_json(record)
    else:
        click.echo(record.state.value)
