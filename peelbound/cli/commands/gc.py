"""`peelbound gc`."""

import json
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peelbound import own_audits
from peelbound.cli.database import configured, service_database
from peelbound.cli.failures import Failure, reporting
from peelbound.cli.output import json_option, print_columns
from peelbound.own_audits import TENANT
from peelbound.workers.errors import InfrastructureError, PeelboundError

if TYPE_CHECKING:
    from peelbound.service.database.retention import Retention
    from peelbound.service.retention.collector import Collected
    from peelbound.service.storage.base import ObjectStore


@click.command("gc")
@click.option("--tenant", help="Only this tenant's storage.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and change nothing.")
@json_option
@reporting
def command(tenant: str | None, dry_run: bool, as_json: bool) -> None:
    """Collect storage: expired audits, files of no audit, results that no audit has used.

    Controllers do this by themselves, every PEELBOUND_COLLECT_SECONDS; it is safe at any time, also while audits run. A
    result is deleted by the first collection that comes PEELBOUND_RESULT_GRACE_SECONDS after one found it unused. What
    `peelbound audit` solves with a service of its own counts as unused, unless it is at work.
    Works on the database and the store of the settings; no server needs to run. A tenant whose collection fails is
    named and holds up no other's; the exit code is then 3.
    """
    settings = configured()
    with service_database() as engine:
        from peelbound.service.database.retention import Retention
        from peelbound.service.retention.collecting import make_collector
        from peelbound.service.storage.open import open_store

        store = open_store(settings)
        collector = make_collector(settings, engine, store)
        collect = collector.would_collect if dry_run else _beside_own_audits(settings.state_dir, collector.collect)
        tenants = _tenants(Retention(engine), store) if tenant is None else [tenant]
        collected, failed = _each(tenants, collect)
        if not dry_run:
            store.clean()
    counted = {name: asdict(done) for name, done in collected.items()}
    if as_json:
        click.echo(json.dumps(counted, indent=2))
    else:
        titles = ("tenant", "audits expired", "files deleted", "results condemned", "results deleted", "bytes freed")
        print_columns(titles, [(name, *map(str, counts.values())) for name, counts in counted.items()])
    if failed:
        raise Failure(f"The collection failed for {', '.join(failed)}; what was not done is done by the next.")


def _tenants(retention: "Retention", store: "ObjectStore") -> list[str]:
    """All that the database knows, and that of audits with services of their own, if the store holds some of theirs."""
    known = set(retention.tenants())
    if TENANT not in known and next(store.list(f"tenants/{TENANT}/"), None) is not None:
        known.add(TENANT)
    return sorted(known)


def _beside_own_audits(state_dir: Path, collect: "Callable[[str], Collected]") -> "Callable[[str], Collected]":
    """`collect`, but where audits are at work that the database does not know: it would take their results away."""

    def collect_if_alone(tenant: str) -> "Collected":
        if tenant != TENANT:
            return collect(tenant)
        with own_audits.excluded(state_dir) as alone:
            if not alone:
                raise InfrastructureError(
                    "`peelbound audit` is at work with a service of its own.", remedy="Collect when it has ended."
                )
            return collect(tenant)

    return collect_if_alone


def _each(tenants: Iterable[str], collect: "Callable[[str], Collected]") -> "tuple[dict[str, Collected], list[str]]":
    """What each tenant's collection did, and whose failed: why is said on standard error."""
    collected, failed = {}, []
    for name in tenants:
        try:
            collected[name] = collect(name)
        except Exception as error:  # a fault of ours in one tenant's storage must not let all the others' grow
            expected = isinstance(error, PeelboundError)
            why = str(error) if expected else f"an error that was not expected\n{traceback.format_exc()}"
            click.echo(f"{name}: {why}", err=True)
            failed.append(name)
    return collected, failed
