"""The end of `audit` and `wait`: print what came out and turn it into an exit code."""

import tempfile
from pathlib import Path

import click
from rich.console import Console

from peelbound.cli.fail_on import offences
from peelbound.cli.failures import Failure
from peelbound.cli.output import print_json, print_verdict, stdout_console
from peelbound.cli.progress import showing
from peelbound.client import Client, patiently
from peelbound.service.schemas.record import AuditState


def make_writable(out: Path) -> None:
    """Make the directory that reports are saved in, before the hours that they take.

    Raises:
        click.UsageError: nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):  # root may write anywhere, and nobody on a read-only file system
            pass
    except OSError as error:
        raise click.BadParameter(f"{out} cannot be written to: {error.strerror}.", param_hint="--out") from None


def follow_and_judge(client: Client, audit_id: str, *, rule: frozenset[str], out: Path | None, as_json: bool) -> None:
    """Wait for the audit, save and print its verdict, and exit with 1 if it breaks the rule. `out` was made already.

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
        (out / "report.json").write_bytes(patiently(lambda: client.report_json(audit_id)))
        (out / "report.html").write_text(patiently(lambda: client.report_html(audit_id)), encoding="utf-8")
        console.print(f"Saved {out / 'report.html'} and report.json", markup=False, highlight=False)
    if not as_json:
        print_verdict(patiently(lambda: client.report(audit_id)), stdout_console())
    if broken := offences(record.summary, rule):
        click.echo(f"The verdict does not pass --fail-on: {', '.join(broken)}.", err=True)
        raise SystemExit(1)
