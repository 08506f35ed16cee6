"""What a real audit says that it used is all that it left, and what is collected is solved again to the last bit."""

import json
from datetime import timedelta

from peelbound.service.database.engine import make_engine
from peelbound.service.database.retention import Retention
from peelbound.service.database.tenants import Tenants
from peelbound.service.retention.collector import Collector
from peelbound.service.retention.erasing import erase
from peelbound.service.retention.uses import name_of
from tests.integration.controller.conftest import Inputs, Running


def test_a_deleted_audits_results_are_collected_and_made_again(
    running: Running, inputs: Inputs, reference: bytes
) -> None:
    service, tenant = running.service, "collected"
    engine = make_engine(service.settings.resolved_database_url)
    collector = Collector(
        Retention(engine),
        service.audits,
        Tenants(engine),
        service.store,
        keep_seconds=None,
        grace=timedelta(seconds=0),
    )
    first = service.submit(inputs.request(), tenant)
    assert service.succeeded(first, tenant) == reference
    top = f"tenants/{tenant}"
    used = json.loads(service.store.get(f"{top}/audits/{first}/1/results.json"))
    stored = {name_of(info.key) for folder in ("results", "digests") for info in service.store.list(f"{top}/{folder}/")}
    assert stored <= set(used)
    repeated = service.submit(inputs.request(), tenant)
    assert service.succeeded(repeated, tenant) == reference
    assert collector.collect(tenant).results_condemned == 0
    erase(service.audits, service.store, tenant, first, by=None)
    shared = set(json.loads(service.store.get(f"{top}/audits/{repeated}/1/results.json")))
    assert collector.collect(tenant).results_condemned == len(stored - shared) > 0
    assert collector.collect(tenant).results_deleted == len(stored - shared)
    erase(service.audits, service.store, tenant, repeated, by=None)
    collector.collect(tenant)
    collector.collect(tenant)
    assert list(service.store.list(f"{top}/")) == []
    assert service.succeeded(service.submit(inputs.request(), tenant), tenant) == reference
    engine.dispose()
