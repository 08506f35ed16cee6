"""The end of `audit` and `wait`: print what came out and turn it into an exit code."""

from pathlib import Path

import click
from rich.console import Console

from peelbound.cli.fail_on import offences
from peelbound.cli.failures import Failure
from peelbound.cli.output import print_json, print_verdict
from peelbound.cli.progress import showing
from peelbound.client import Client
from peelbound.service.schemas.record import AuditState


def follow_and_judge(client: Client, audit_id: str, *, rule: frozenset[str], out: Path | None, as_json: bool) -> None:
    """Wait for the audit, print its verdict, and exit with 1 if it breaks the rule.

    Raises:
        Failure: the audit failed or was cancelled.
    """
    console = Console(stderr=True)
    with showing(console) as show:
        record = client.wait(audit_id, progress=show)
    if as_json:
        print_json(record)
    if record.state is not AuditState.SUCCEEDED or record.summary is None:
        why = f": {record.problem.detail} {record.problem.remedy}".rstrip() if record.problem else ""
        raise Failure(f"The audit {'was ' if record.state is AuditState.CANCELLED else ''}{record.state}{why}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_bytes(client.report_json(audit_id))
        (out / "report.html").write_text(client.report_html(audit_id), encoding="utf-8")
        console.print(f"Saved {out / 'report.html'} and report.json", markup=False, highlight=False)
    if not as_json:
        print_verdict(client.report(audit_id), Console())
    if broken := offences(record.summary, rule):
        click.echo(f"The verdict does not pass --fail-on: {', '.join(broken)}.", err=True)
        raise SystemExit(1)
