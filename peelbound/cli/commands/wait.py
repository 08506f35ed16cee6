"""`peelbound wait`."""

from pathlib import Path

import click

from peelbound.cli.fail_on import fail_on_option
from peelbound.cli.failures import reporting
from peelbound.cli.judging import follow_and_judge, make_writable
from peelbound.cli.output import json_option
from peelbound.cli.places import Directory
from peelbound.client import Client


@click.command("wait")
@click.argument("audit_id")
@click.option("--out", type=Directory(), help="Save report.html and report.json here.")
@fail_on_option
@json_option
@reporting
def command(audit_id: str, out: Path | None, fail_on: frozenset[str], as_json: bool) -> None:
    """Wait for an audit to end and judge the verdict, as `audit` does."""
    if out is not None:
        make_writable(out)
    with Client() as client:
        follow_and_judge(client, audit_id, rule=fail_on, out=out, as_json=as_json)
