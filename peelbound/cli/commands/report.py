"""`peelbound report`."""

from pathlib import Path

import click

from peelbound.cli.failures import reporting
from peelbound.cli.judging import make_writable
from peelbound.cli.output import json_option, print_json, print_verdict, stdout_console
from peelbound.client import Client


@click.command("report")
@click.argument("audit_id", required=False)
@click.option("--run", help="Instead of an audit: the series of this training run.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Save to this file: .html or .json.")
@json_option
@reporting
def command(audit_id: str | None, run: str | None, out: Path | None, as_json: bool) -> None:
    """Print the report of AUDIT_ID, or save it as a page or as JSON."""
    if (audit_id is None) == (run is None):
        raise click.UsageError("Give an audit's id or --run.")
    if out is not None and out.suffix not in (".html", ".json"):
        raise click.BadParameter("end the file's name in .html or .json", param_hint="--out")
    with Client() as client:
        if out is not None:
            make_writable(out.parent)
            _save(client, audit_id, run, out)
        elif audit_id is None:
            assert run is not None
            print_json(client.run(run))
        elif as_json:
            click.echo(client.report_json(audit_id))
        else:
            print_verdict(client.report(audit_id), stdout_console())


def _save(client: Client, audit_id: str | None, run: str | None, out: Path) -> None:
    page = out.suffix == ".html"
    if audit_id is not None:
        out.write_bytes(client.report_html(audit_id).encode() if page else client.report_json(audit_id))
    elif run is not None:
        out.write_text(client.run_html(run) if page else client.run(run).model_dump_json(), encoding="utf-8")
    click.echo(f"Saved {out}", err=True)
