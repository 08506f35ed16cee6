"""`peelbound gc`."""

import json
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from peelbound.cli.database import configured, service_database
from peelbound.cli.failures import Failure, reporting
from peelbound.cli.output import json_option, print_columns
from peelbound.service.retention.own_audits import TENANT, spared
from peelbound.workers.errors import PeelboundError

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
        collect = collector.would_collect if dry_run else spared(settings.state_dir, collector.collect)
        collected, failed = _each(_tenants(Retention(engine), store, tenant), collect)
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


def _tenants(retention: "Retention", store: "ObjectStore", wanted: str | None) -> list[str]:
    """The one that is wanted, or all that the database knows and that of audits with services of their own.

    Raises:
        click.UsageError: the database does not know the one that is wanted, nor does the store hold anything of it.
    """
    known = set(retention.tenants())
    tenant = TENANT if wanted is None else wanted
    if tenant not in known and next(store.list(f"tenants/{tenant}/"), None) is not None:
        known.add(tenant)
    if wanted is None:
        return sorted(known)
    if wanted not in known:  # its collection would note it as a tenant
        raise click.UsageError(f"There is no tenant {wanted}.")
    return [wanted]


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
