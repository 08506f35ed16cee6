"""`peelbound audit`."""

from pathlib import Path

import click
from httpx2 import TransportError

from peelbound.cli.connect import service_for
from peelbound.cli.fail_on import fail_on_option
from peelbound.cli.failures import Failure, reporting
from peelbound.cli.judging import follow_and_judge, make_writable
from peelbound.cli.output import json_option, print_json
from peelbound.cli.places import Directory
from peelbound.cli.request_options import request_options
from peelbound.client import Client
from peelbound.errors import ProblemError
from peelbound.service.schemas.request import AuditRequest

_SOLVED = "What was solved is kept: the same command goes on from there."


@click.command("audit")
@request_options
@click.option("--out", type=Directory(), help="Save report.html and report.json here.")
@click.option("--no-wait", is_flag=True, help="Submit and print the audit's id; needs a running service.")
@click.option("--idempotency-key", help="Submitting again with the same key and request finds the same audit.")
@fail_on_option
@json_option
@reporting
def command(
    request: AuditRequest,
    out: Path | None,
    no_wait: bool,
    idempotency_key: str | None,
    fail_on: frozenset[str],
    as_json: bool,
) -> None:
    """Audit CHECKPOINT, a directory or URI, and judge the verdict.

    With no service running, one is started for the call; it solves nothing that was solved before.
    """
    places = [p for p in (request.checkpoint, request.calibration.uri, request.baseline) if p is not None]
    if no_wait:
        _submit_only(request, idempotency_key, as_json)
        return
    if out is not None:
        make_writable(out)
    with service_for(places, with_controller=True) as service:
        record = service.client.submit(request, idempotency_key=idempotency_key)
        if not service.own:  # our own ends with the call, and nobody could ask it
            click.echo(f"Audit {record.id}", err=True)
        try:
            follow_and_judge(service.client, record.id, rule=fail_on, out=out, as_json=as_json)
        except KeyboardInterrupt:
            click.echo(_SOLVED if service.own else f"The audit goes on: peelbound wait {record.id}", err=True)
            raise
        except Failure:
            if service.controller_log is not None:
                click.echo(f"The controller's log: {service.controller_log}", err=True)
            raise
        finally:
            if service.own:
                forget(service.client, record.id)


def forget(client: Client, audit_id: str) -> None:
    """Delete an ended audit of our own service: nobody could find it again, since its database ends with the call.

    What was solved stays in the store. A failure to tidy up is no reason to change what the command has found, so it is
    said and goes no further.
    """
    try:
        if client.get(audit_id).state.ended:
            client.delete(audit_id)
    except (ProblemError, TransportError) as error:
        click.echo(f"The audit's files stay in the store: {error}", err=True)


def _submit_only(request: AuditRequest, idempotency_key: str | None, as_json: bool) -> None:
    with Client() as client:
        record = client.submit(request, idempotency_key=idempotency_key)
    if as_json:
        print_json(record)
    else:
        click.echo(record.id)
