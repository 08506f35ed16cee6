"""`peelbound list`."""

from itertools import islice

import click

from peelbound.cli.failures import reporting
from peelbound.cli.output import audit_table, json_option, print_json, stdout_console
from peelbound.client import Client
from peelbound.service.schemas.record import AuditPage, AuditState


@click.command("list")
@click.option("--state", type=click.Choice([state.value for state in AuditState]), help="Only audits in this state.")
@click.option("--run", help="Only audits of this training run.")
@click.option("--label", metavar="KEY=VALUE", help="Only audits with this label.")
@click.option("--checkpoint-prefix", metavar="URI", help="Only audits of checkpoints whose URI begins so.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@json_option
@reporting
def command(
    state: str | None,
    run: str | None,
    label: str | None,
    checkpoint_prefix: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List audits, newest first."""
    key, equals, value = (label or "").partition("=")
    if label is not None and not equals:
        raise click.BadParameter(f"{label!r} is not KEY=VALUE", param_hint="--label")
    with Client() as client:
        found = client.iterate(
            state=None if state is None else AuditState(state),
            run=run,
            label=None if label is None else (key, value),
            checkpoint_prefix=checkpoint_prefix,
        )
        records = list(islice(found, limit))
    if as_json:
        print_json(AuditPage(items=records))
    else:
        stdout_console().print(audit_table(records))
