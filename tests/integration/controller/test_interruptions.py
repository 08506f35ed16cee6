"""A killed worker, a missed deadline, a cancel: the audit ends as it should, and its workers go on."""

import json
from dataclasses import dataclass

import pytest

from peelbound.service.database.engine import make_engine
from peelbound.service.database.webhooks import Webhooks
from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.request import AuditOptions, Preset
from peelbound.service.schemas.webhook import WebhookRequest
from tests.integration.controller.conftest import Inputs, Running
from tests.integration.controller.harness import LONG_SOLVES, gone
from tests.waiting import until
from tests.webhook_receiver import receiving


def test_a_killed_worker_is_replaced(running: Running, inputs: Inputs, reference: bytes) -> None:
    service, tenant = running.service, "worker-killed"
    audit = service.submit(inputs.request(), tenant)
    until(lambda: service.half_solved(tenant))
    victim = running.controller.workers()[0]
    victim.kill()
    before = service.results(tenant=tenant)
    assert service.succeeded(audit, tenant) == reference
    after = service.results(tenant=tenant)
    assert {name: after[name] for name in before} == before
    assert service.record(audit, tenant).attempt == 1
    assert service.states(audit, tenant) == ["queued", "running", "succeeded"]
    assert gone(victim)
    assert len(running.controller.workers()) == 2


@dataclass(frozen=True)
class Long:
    """An audit that would take many minutes: on what, and the result that is there when that begins."""

    options: AuditOptions
    after: str


LONG = {
    "block reference": Long(LONG_SOLVES, "trained"),
    "peeled block": Long(AuditOptions(network_steps=100_000, grain=4), "trained"),
    "head": Long(AuditOptions(head_steps=100_000, block_steps=1, maps=[[3]], matrix_band=0, grain=4), "select"),
}


def test_an_audit_that_misses_its_deadline_is_told_of_and_leaves_its_workers_usable(
    running: Running, inputs: Inputs, reference: bytes
) -> None:
    service, tenant = running.service, "deadline"
    engine = make_engine(service.settings.resolved_database_url)
    workers = {worker.pid for worker in running.controller.workers()}
    with receiving() as receiver:
        Webhooks(engine).create(tenant, WebhookRequest(url=receiver.url), receiver.url)
        late = inputs.request(options=LONG_SOLVES, deadline_seconds=1)
        audit = service.submit(late, tenant)
        record = service.wait(audit, tenant)
        assert record.state is AuditState.FAILED
        assert record.problem is not None
        assert record.problem.slug == "deadline-exceeded"
        until(lambda: receiver.received)
        assert json.loads(receiver.received[0].body)["data"]["id"] == audit
        assert service.succeeded(service.submit(inputs.request(deadline_seconds=600), tenant), tenant) == reference
        until(lambda: len(receiver.received) == 2)
    assert {worker.pid for worker in running.controller.workers()} == workers
    engine.dispose()


@pytest.mark.parametrize("name", LONG)
def test_a_cancelled_audit_leaves_its_workers_usable(
    name: str, running: Running, inputs: Inputs, quick_reference: bytes
) -> None:
    service, tenant, long = running.service, f"cancelled-{name.replace(' ', '-')}", LONG[name]
    workers = {worker.pid for worker in running.controller.workers()}
    audit = service.submit(inputs.request(options=long.options), tenant)
    until(lambda: service.results(long.after, tenant))
    assert service.audits.cancel(tenant, audit).state is AuditState.CANCELLING
    assert service.wait(audit, tenant).state is AuditState.CANCELLED
    assert service.states(audit, tenant) == ["queued", "running", "cancelling", "cancelled"]
    assert service.audits.manifest_key(tenant, audit) is None
    assert service.succeeded(service.submit(inputs.request(preset=Preset.QUICK), tenant), tenant) == quick_reference
    assert {worker.pid for worker in running.controller.workers()} == workers


def test_ray_listens_on_loopback_only(running: Running, reference: bytes) -> None:
    assert reference
    processes = [running.controller.itself(), *running.controller.family()]
    listening = [c for p in processes for c in p.net_connections("inet") if c.status == "LISTEN"]
    assert len(listening) > 3
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}
