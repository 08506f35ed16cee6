"""`peelbound gc`."""

import json
from dataclasses import asdict

import click

from peelbound.cli.database import configured, service_database
from peelbound.cli.failures import reporting
from peelbound.cli.output import json_option, print_columns


@click.command("gc")
@click.option("--tenant", help="Only this tenant's storage.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and change nothing.")
@json_option
@reporting
def command(tenant: str | None, dry_run: bool, as_json: bool) -> None:
    """Collect storage: expired audits, files of no audit, results that no audit has used.

    Controllers do this by themselves, every PEELBOUND_COLLECT_SECONDS; it is safe at any time, also while audits run. A
    result is deleted by the first collection that comes PEELBOUND_RESULT_GRACE_SECONDS after one found it unused.
    Works on the database and the store of the settings; no server needs to run.
    """
    settings = configured()
    with service_database() as engine:
        from peelbound.service.database.retention import Retention
        from peelbound.service.retention.collecting import make_collector
        from peelbound.service.storage.open import open_store

        store = open_store(settings)
        collector = make_collector(settings, engine, store)
        collect = collector.would_collect if dry_run else collector.collect
        tenants = Retention(engine).tenants() if tenant is None else [tenant]
        collected = {name: asdict(collect(name)) for name in tenants}
        if not dry_run:
            store.clean()
    if as_json:
        click.echo(json.dumps(collected, indent=2))
        return
    titles = ("tenant", "audits expired", "files deleted", "results condemned", "results deleted", "bytes freed")
    print_columns(titles, [(name, *map(str, counts.values())) for name, counts in collected.items()])
