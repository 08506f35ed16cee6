"""`peelbound tenant`."""

import json
from datetime import timedelta

import click

from peelbound.cli.database import configured, service_database, whoever_calls
from peelbound.cli.failures import Failure, reporting
from peelbound.cli.lifetime import Lifetime
from peelbound.cli.output import json_option


@click.group("tenant")
def command() -> None:
    """Say how long a tenant's audits are kept.

    Works on the database that PEELBOUND_DATABASE_URL names; no server needs to run.
    """


@command.command("set")
@click.argument("tenant")
@click.option(
    "--keep-audits", type=Lifetime(), metavar="TIME", help="After their end: 30d, 12h, or never to delete any."
)
@click.option("--keep-audits-by-default", is_flag=True, help="As PEELBOUND_AUDIT_KEEP_SECONDS says.")
@click.pass_context
@reporting
def set_(context: click.Context, tenant: str, keep_audits: timedelta | None, keep_audits_by_default: bool) -> None:
    """Keep TENANT's audits for a time of its own, or `never` delete them."""
    given = context.get_parameter_source("keep_audits") is not click.core.ParameterSource.DEFAULT
    if given == keep_audits_by_default:
        raise click.UsageError("Give either --keep-audits or --keep-audits-by-default.")
    with service_database() as engine:
        from peelbound.service.database.retention import FOR_EVER, Retention
        from peelbound.service.schemas.tenant import is_tenant

        if not is_tenant(tenant):
            raise Failure(f"{tenant!r} cannot be a tenant's name.")
        seconds = None if keep_audits_by_default else FOR_EVER if keep_audits is None else _seconds(keep_audits)
        Retention(engine).keep(tenant, seconds, by=whoever_calls())
    click.echo(f"{tenant}: {_said(seconds, None)}")


@command.command("show")
@click.argument("tenant")
@json_option
@reporting
def show(tenant: str, as_json: bool) -> None:
    """Say how long TENANT's audits are kept, and how much it stores."""
    settings = configured()
    with service_database() as engine:
        from peelbound.service.database.retention import Retention
        from peelbound.service.database.tenants import Tenants

        own, stored = Retention(engine).kept(tenant), Tenants(engine).stored_bytes(tenant)
    if as_json:
        click.echo(json.dumps({"tenant": tenant, "keep_seconds": own, "stored_bytes": stored}))
    else:
        click.echo(f"{tenant}: {_said(own, settings.audit_keep_seconds)}; {stored} bytes stored when last measured")


def _seconds(lasts: timedelta) -> int:
    return int(lasts.total_seconds())


def _said(own: int | None, default: float | None) -> str:
    if own is None:
        return f"audits are kept as the settings say{'' if default is None else f' ({default:g} s)'}"
    return "audits are kept for ever" if own == 0 else f"audits are kept for {own} s after their end"
