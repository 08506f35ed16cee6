"""`peelbound token`."""

import json
from dataclasses import asdict
from datetime import timedelta

import click

from peelbound.cli.database import service_database, whoever_calls
from peelbound.cli.failures import Failure, reporting
from peelbound.cli.lifetime import Lifetime
from peelbound.cli.output import json_option, print_columns

tenant_option = click.option("--tenant", default="default", show_default=True, help="Whose token it is.")


@click.group("token")
def command() -> None:
    """Make, list and revoke the service's tokens.

    Works on the database that PEELBOUND_DATABASE_URL names; no server needs to run.
    """


@command.command("create")
@tenant_option
@click.option("--name", required=True, help="What the token is for; distinct within the tenant.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["read", "write", "admin"]),
    default=["read", "write"],
    show_default=True,
    help="What it may do; may be given several times.",
)
@click.option("--expires-in", type=Lifetime(), default="90d", show_default=True, help="30m, 12h, 90d or never.")
@json_option
@reporting
def create(tenant: str, name: str, scopes: tuple[str, ...], expires_in: timedelta | None, as_json: bool) -> None:
    """Make a token and print it, this once only."""
    with service_database() as engine:
        from peelbound.service.database.tokens import Tokens

        secret = Tokens(engine).create(tenant, name, frozenset(scopes), lasts=expires_in, by=whoever_calls())
        click.echo(f"Made in {engine.url.render_as_string(hide_password=True)}.", err=True)
    click.echo(json.dumps({"tenant": tenant, "name": name, "token": secret}) if as_json else secret)


@command.command("list")
@click.option("--tenant", help="Only this tenant's.")
@json_option
@reporting
def listing(tenant: str | None, as_json: bool) -> None:
    """List tokens, without their secrets."""
    with service_database() as engine:
        from peelbound.service.database.tokens import Tokens

        found = Tokens(engine).listed(tenant)
    if as_json:
        click.echo(json.dumps([asdict(token) for token in found], default=lambda time: time.isoformat(), indent=2))
        return
    rows = []
    for token in found:
        expires = "never" if token.expires_at is None else f"{token.expires_at:%Y-%m-%d %H:%M}"
        expired = " (expired)" if token.expired else ""
        created = f"{token.created_at:%Y-%m-%d %H:%M}"
        rows.append((token.tenant, token.name, " ".join(token.scopes), token.id, created, expires + expired))
    print_columns(("tenant", "name", "scopes", "id", "created", "expires"), rows)


@command.command("revoke")
@tenant_option
@click.argument("name")
@json_option
@reporting
def revoke(tenant: str, name: str, as_json: bool) -> None:
    """End the token NAME at once."""
    with service_database() as engine:
        from peelbound.service.database.tokens import Tokens

        if not Tokens(engine).revoke(tenant, name, by=whoever_calls()):
            raise Failure(f"{tenant} has no token named {name}.")
    click.echo(json.dumps({"tenant": tenant, "revoked": name}) if as_json else f"Revoked {name} of {tenant}.")
