"""`peelbound doctor`."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import httpx2

from peelbound.cli.failures import reporting
from peelbound.cli.output import json_option
from peelbound.client import Client
from peelbound.endpoint import find_endpoint
from peelbound.errors import EndpointInvalid, ProblemError, ServiceNotFound, ServiceStarting
from peelbound.extras import require_server_extra

if TYPE_CHECKING:
    from peelbound.service.doctor.findings import Finding
    from peelbound.service.settings import Settings

_NEEDED = ("sqlalchemy", "alembic", "pydantic_settings", "boto3", "packaging")


@click.command("doctor")
@json_option
@click.pass_context
@reporting
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what is wrong with a service's settings and surroundings, and how to mend it.

    Looks at what the settings of the environment name, from this machine: database, object storage, clocks, Ray, the
    allow-list, disks, versions; and at the service and token of PEELBOUND_URL and PEELBOUND_TOKEN. Exit code 1:
    something is wrong. Warnings alone give 0.
    """
    require_server_extra(_NEEDED)
    findings = []
    for finding in _examine():
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        click.echo(json.dumps([finding.model_dump(mode="json") for finding in findings], indent=2))
    ctx.exit(1 if any(finding.status == "wrong" for finding in findings) else 0)


def _print(finding: "Finding") -> None:
    color = {"ok": "green", "warning": "yellow", "wrong": "red"}.get(finding.status)
    click.echo(f"{click.style(f'{finding.status:<8}', fg=color)} {finding.part:<15} {finding.detail}")
    if finding.remedy:
        click.echo(f"{'':<24} {finding.remedy}")


def _examine() -> "Iterator[Finding]":
    from pydantic import ValidationError

    from peelbound.service.doctor.cluster import examine_cluster
    from peelbound.service.doctor.database import examine_database
    from peelbound.service.doctor.findings import ok, wrong
    from peelbound.service.doctor.host import examine_allow_list, examine_disks, examine_versions
    from peelbound.service.doctor.store import examine_store
    from peelbound.service.settings import Settings
    from peelbound.service.starting import wrong_settings

    yield examine_versions()
    try:
        settings = Settings()
    except ValidationError as error:
        for sentence in wrong_settings(error):
            yield wrong("settings", sentence, "docs/operations.md lists all settings.")
        return
    yield ok("settings", "Every PEELBOUND_… variable can be read.")
    yield from examine_database(settings)
    yield from examine_store(settings)
    yield from examine_allow_list(settings)
    yield from examine_disks(settings)
    yield examine_cluster(settings)
    yield _service(settings)


def _service(settings: "Settings") -> "Finding":
    """Whether the service of PEELBOUND_URL, or the one that runs here, answers and takes the token."""
    from peelbound.service.doctor.findings import ok, skipped, wrong

    part = "service"
    try:
        endpoint = find_endpoint(state_dir=settings.state_dir)
    except ServiceStarting as error:
        return skipped(part, str(error))
    except ServiceNotFound:
        return skipped(part, "PEELBOUND_URL is not set, and no service runs on the state directory.")
    except EndpointInvalid as error:
        return wrong(part, str(error), "Mend PEELBOUND_URL and PEELBOUND_TOKEN.")
    try:
        with Client(endpoint.url, endpoint.token) as client:
            client.page(limit=1)
    except ProblemError as error:
        remedy = "Set PEELBOUND_TOKEN to one that `peelbound token create` made; `peelbound token list` shows expiries."
        return wrong(part, f"{endpoint.url}: {error}", remedy)
    except httpx2.TransportError as error:
        return wrong(part, f"{endpoint.url} does not answer: {error}", "Start it, or mend PEELBOUND_URL.")
    return ok(part, f"{endpoint.url} answers and takes the token.")
