"""`peelbound plan`."""

import click

from peelbound.cli.connect import service_for
from peelbound.cli.failures import reporting
from peelbound.cli.output import json_option, plan_table, print_json, stdout_console
from peelbound.cli.request_options import request_options
from peelbound.service.schemas.request import AuditRequest


@click.command("plan")
@request_options
@json_option
@reporting
def command(request: AuditRequest, as_json: bool) -> None:
    """Say what an audit of CHECKPOINT would do and cost, without running it."""
    places = [p for p in (request.checkpoint, request.calibration.uri, request.baseline) if p is not None]
    with service_for(places, with_controller=False) as service:
        plan = service.client.plan(request)
    if as_json:
        print_json(plan)
    else:
        stdout_console().print(plan_table(plan))
