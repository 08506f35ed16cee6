"""Audits are kept for as long as their tenant wants, and nothing of theirs stays behind."""

import json
import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, select, update
from ulid import ULID

from peelbound.service.database.engine import reading, writing
from peelbound.service.database.errors import AuditNotFound
from peelbound.service.database.log import Log
from peelbound.service.database.outbox import Outbox
from peelbound.service.database.retention import FOR_EVER
from peelbound.service.database.tables import AuditRow, DeliveryAttemptRow, DeliveryRow, EventRow
from peelbound.service.database.webhooks import Webhooks
from peelbound.service.retention.collecting import collecting
from peelbound.service.schemas.webhook import WebhookRequest
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from tests.integration.cli.conftest import Run, run, surroundings
from tests.integration.database.harness import PROBLEM, at_once
from tests.integration.retention.harness import Storage

__all__ = ["run", "surroundings"]

DAY = 24 * 3600
TICK = threading.Event()


@pytest.fixture
def storage(engine: Engine, store: ObjectStore) -> Storage:
    return Storage(engine, store, keep_seconds=30 * DAY)


def files(storage: Storage) -> list[str]:
    top = f"tenants/{storage.tenant}/audits/"
    return sorted(info.key.removeprefix(top) for info in storage.store.list(top))


def test_an_audit_expires_after_the_services_time_with_all_that_is_its_own(storage: Storage) -> None:
    url = "https://hooks.example.com/"
    Webhooks(storage.engine, clock=storage.service.clock).create("acme", WebhookRequest(url=url), url)
    old = storage.audit("a")
    outbox = Outbox(storage.engine, lease_seconds=60, clock=storage.service.clock)
    told = outbox.claim("deliverer")
    assert told is not None
    assert outbox.settle(told, 200, None, 0.1)
    waiting = storage.service.submit("acme")
    storage.service.clock.push(29 * DAY)
    storage.collect()
    assert storage.service.audits.get("acme", old.claim.audit_id)
    storage.service.clock.push(2 * DAY)
    collected = storage.collector.collect("acme")
    assert collected.audits_expired == 1
    assert collected.bytes_freed > 0
    with pytest.raises(AuditNotFound):
        storage.service.audits.get("acme", old.claim.audit_id)
    assert storage.service.audits.get("acme", waiting)  # it has not even begun
    assert files(storage) == []
    with reading(storage.engine) as connection:
        events = select(func.count()).select_from(EventRow).where(EventRow.audit_id == old.claim.audit_id)
        assert connection.scalar(events) == 0
        for table in (DeliveryRow, DeliveryAttemptRow):
            assert connection.scalar(select(func.count()).select_from(table)) == 0
    (entry,) = Log(storage.engine).page("acme").items[:1]
    assert (entry.actor, entry.action, entry.target) == ("retention", "audit.delete", old.claim.audit_id)
    storage.later()
    assert storage.collect() == (0, 1)
    assert not storage.has("a")


def test_a_tenants_own_time_rules(storage: Storage) -> None:
    audit = storage.audit("a").claim.audit_id
    retention = storage.retention
    retention.keep("acme", 2 * DAY)
    storage.service.clock.push(1 * DAY)
    assert retention.expired("acme", 30 * DAY) == []
    storage.service.clock.push(2 * DAY)
    assert retention.expired("acme", 30 * DAY) == [audit]
    retention.keep("acme", FOR_EVER)
    storage.service.clock.push(1000 * DAY)
    assert retention.expired("acme", 30 * DAY) == []
    retention.keep("acme", None)
    assert retention.expired("acme", 30 * DAY) == [audit]
    assert retention.expired("acme", None) == []
    assert retention.expired("other", 30 * DAY) == []


def test_a_time_that_leads_out_of_the_calendar_is_a_hundred_years(storage: Storage) -> None:
    """Earlier versions let it be set."""
    audit = storage.audit("a").claim.audit_id
    storage.retention.keep("acme", 999_999 * DAY)
    assert storage.collector.collect("acme").audits_expired == 0
    assert storage.retention.expired("acme", None) == []
    storage.retention.keep("acme", None)
    assert storage.retention.expired("acme", float("inf")) == []
    storage.service.clock.push(36_500 * DAY)
    assert storage.retention.expired("acme", float("inf")) == [audit]


def test_files_that_no_audit_published_are_deleted_and_those_of_running_ones_are_not(storage: Storage) -> None:
    top = "tenants/acme/audits"
    done = storage.audit("a").claim
    running = storage.claimed().claim
    gone = str(ULID.from_datetime(storage.retention.now() - timedelta(days=2)))
    elsewhere = str(ULID.from_datetime(storage.retention.now()))  # its row is in another database
    for key in (
        f"{top}/{done.audit_id}/7/report.json",
        f"{top}/{running.audit_id}/{running.attempt}/report.json",
        f"{top}/{gone}/1/report.json",
        f"{top}/{elsewhere}/1/report.json",
        f"{top}/not-an-audit/1/x",
    ):
        storage.store.put(key, b"x")
    assert storage.collector.would_collect("acme").files_deleted == 2
    assert storage.collector.collect("acme").files_deleted == 2
    published = [f"{done.audit_id}/1/{name}" for name in ("manifest.json", "report.json", "results.json")]
    kept = [f"{running.audit_id}/1/report.json", f"{elsewhere}/1/report.json", "not-an-audit/1/x"]
    assert files(storage) == sorted(published + kept)
    storage.service.leases.fail(running, PROBLEM)
    assert storage.collector.collect("acme").files_deleted == 1


def test_one_of_many_collects_a_tenant_and_then_not_for_a_while(storage: Storage) -> None:
    storage.audit("a")
    Storage(storage.engine, storage.store, "other").audit("a")
    every = timedelta(hours=6)
    taken = at_once(*[lambda: storage.retention.claim(every) for _ in range(6)])
    assert sorted(tenant for tenant in taken if tenant is not None) == ["acme", "other"]
    storage.service.clock.push(5 * 3600)
    assert storage.retention.claim(every) is None
    storage.service.clock.push(3601)
    assert {storage.retention.claim(every) for _ in range(2)} == {"acme", "other"}


def test_a_turn_is_the_one_that_has_been_due_for_longest_also_of_tenants_that_nothing_is_noted_of(
    storage: Storage,
) -> None:
    """Audits are submitted without limits here, so their tenants have no row before the first look."""
    for tenant in ("b", "a", "c"):
        storage.service.submit(tenant)
    storage.retention.keep("b", DAY)  # has a row
    every = timedelta(hours=6)
    assert storage.retention.tenants() == ["a", "b", "c"]
    turns = []
    for _ in range(3):
        turns.append(storage.retention.claim(every))
        storage.service.clock.push(60)
    assert turns == ["b", "a", "c"]
    assert storage.retention.claim(every) is None
    storage.service.clock.push(6 * 3600)
    storage.service.submit("d")
    assert [storage.retention.claim(every) for _ in range(5)] == ["b", "a", "c", "d", None]


def test_a_tenant_whose_audits_are_gone_has_its_turn(storage: Storage) -> None:
    storage.delete(storage.audit("a"))
    assert storage.retention.tenants() == ["acme"]
    assert storage.retention.claim(timedelta(hours=6)) == "acme"


def test_a_controller_collects_in_the_background(
    storage: Storage, store_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peelbound.service.retention.collecting.LOOK_SECONDS", 0.05)
    storage.delete(storage.audit("a"))
    often = store_settings.model_copy(update={"collect_seconds": 0.05, "result_grace_seconds": 0.0})
    with collecting(often, storage.engine, storage.store):
        while storage.has("a"):
            TICK.wait(0.05)
    never = store_settings.model_copy(update={"collect_seconds": 0.0})
    with collecting(never, storage.engine, storage.store):
        assert all(thread.name != "collector" for thread in threading.enumerate())


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)  # how it is spelled; the above say what it does
def test_the_command_line_collects_and_sets_times(run: Run, storage: Storage, store_settings: Settings) -> None:
    grace = {"PEELBOUND_RESULT_GRACE_SECONDS": "0"}

    def peelbound(*words: str) -> str:
        done = run(*words, **(store_settings.environment() | grace))
        assert done.returncode == 0, done.stderr
        return done.stdout

    storage.delete(storage.audit("a"))
    would = json.loads(peelbound("gc", "--dry-run", "--json"))["acme"]
    assert would["results_condemned"] == 1
    assert json.loads(peelbound("gc", "--json"))["acme"] == would
    assert storage.has("a")
    assert "results deleted" in peelbound("gc", "--tenant", "acme")
    assert not storage.has("a")
    assert "172800 s" in peelbound("tenant", "set", "acme", "--keep-audits", "2d")
    assert json.loads(peelbound("tenant", "show", "acme", "--json"))["keep_seconds"] == 2 * DAY
    assert "for ever" in peelbound("tenant", "set", "acme", "--keep-audits", "never")
    assert "settings" in peelbound("tenant", "set", "acme", "--keep-audits-by-default")
    assert storage.retention.kept("acme") is None
    assert run("tenant", "set", "acme", **store_settings.environment()).returncode == 2
    assert run("tenant", "set", "acme", "--keep-audits", "36501d", **store_settings.environment()).returncode == 2
    assert run("tenant", "set", "../x", "--keep-audits", "2d", **store_settings.environment()).returncode == 3


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)  # as above
def test_a_tenant_whose_collection_fails_is_named_and_holds_up_no_other(
    run: Run, storage: Storage, store_settings: Settings
) -> None:
    broken, other = storage.audit("a").claim, Storage(storage.engine, storage.store, "other")
    other.delete(other.audit("a"))
    with writing(storage.engine) as connection:  # where no version of ours puts one
        connection.execute(update(AuditRow).where(AuditRow.id == broken.audit_id).values(manifest_key="../manifest"))
    for _ in range(2):
        done = run("gc", "--json", **(store_settings.environment() | {"PEELBOUND_RESULT_GRACE_SECONDS": "0"}))
        assert done.returncode == 3
        assert "failed for acme" in done.stderr
    assert json.loads(done.stdout)["other"]["results_deleted"] == 1
    assert not other.has("a")
