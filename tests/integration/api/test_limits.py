"""What one tenant and one token may ask of the service."""

from pathlib import Path

import pytest

from peelbound.api.auth import COOKIE
from peelbound.api.rates import Rates
from peelbound.service.database.audits import Audits
from peelbound.service.database.errors import TenantActiveLimit, TenantStorageLimit
from peelbound.service.database.tenants import TenantLimits, Tenants
from peelbound.service.retention.collecting import make_collector
from peelbound.service.retention.erasing import erase
from peelbound.service.settings import Settings
from tests.integration.database.harness import a_request, at_once
from tests.unit.api.harness import ALL, BODY, Api, problem


class Watch:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_then_as_many_as_the_rate() -> None:
    watch = Watch()
    rates = Rates(2.0, 3, watch)
    assert [rates.wait("one") for _ in range(3)] == [0, 0, 0]
    assert rates.wait("one") == pytest.approx(0.5)
    assert rates.wait("other") == 0
    watch.now += 0.5
    assert rates.wait("one") == 0
    assert rates.wait("one") == pytest.approx(0.5)
    watch.now += 3600
    assert [rates.wait("one") > 0 for _ in range(4)] == [False, False, False, True]


def test_a_refused_request_does_not_put_the_next_one_off() -> None:
    watch = Watch()
    rates = Rates(1.0, 1, watch)
    assert rates.wait("one") == 0
    for _ in range(100):
        assert rates.wait("one") == pytest.approx(1.0)
    watch.now += 1
    assert rates.wait("one") == 0


def test_full_buckets_are_forgotten() -> None:
    watch = Watch()
    rates = Rates(1.0, 1, watch)
    for number in range(10_000):
        rates.wait(f"caller {number}")
    watch.now += 2
    rates.wait("one more")
    assert len(rates._full_at) == 1


def test_a_rate_of_nothing_is_no_limit() -> None:
    rates = Rates(0.0, 1)
    assert [rates.wait("one") for _ in range(1000)] == [0.0] * 1000


class TestRates:
    @pytest.fixture
    def settings(self, tmp_path: Path, migrated_url: str) -> Settings:
        return Settings(
            state_dir=tmp_path, database_url=migrated_url, allow=["/data"], requests_per_second=0.01, request_burst=5
        )

    def test_who_asks_too_fast_is_told_how_long_to_wait_and_others_are_not_held_up(self, api: Api) -> None:
        for _ in range(5):
            assert api.client.get("/v1/audits").status_code == 200
        refused = api.client.post("/v1/audits", json=BODY)
        problem(refused, 429, "rate-limited")
        assert 90 <= int(refused.headers["retry-after"]) <= 100
        assert api.client.get("/v1/audits", headers=api.token("read")).json()["items"] == []
        assert api.client.get("/healthz").status_code == 200

    def test_the_page_of_a_reader_counts_and_that_of_a_stranger_does_not(self, api: Api) -> None:
        del api.client.headers["Authorization"]
        assert {api.client.get("/").status_code for _ in range(6)} == {200}
        api.client.cookies.set(COOKIE, api.token("read")["Authorization"].removeprefix("Bearer "))
        assert {api.client.get("/").status_code for _ in range(5)} == {200}
        problem(api.client.get("/"), 429, "rate-limited")


def test_a_tenant_at_its_limit_is_refused_until_an_audit_ends(api: Api) -> None:
    context = api.context
    audits = Audits(context.engine, limits=TenantLimits(active_audits=2))
    first = audits.submit("acme", a_request(), "key")[0].id
    audits.submit("acme", a_request(), None)
    with pytest.raises(TenantActiveLimit):
        audits.submit("acme", a_request(), None)
    assert len(audits.page("acme").items) == 2
    assert audits.submit("acme", a_request(), "key") == (audits.get("acme", first), False)
    audits.submit("other", a_request(), None)
    audits.cancel("acme", first)
    audits.submit("acme", a_request(), None)


def test_of_submissions_at_once_no_more_pass_than_may(api: Api) -> None:
    audits = Audits(api.context.engine, limits=TenantLimits(active_audits=5))

    def submit() -> bool:
        try:
            audits.submit("acme", a_request(), None)
        except TenantActiveLimit:
            return False
        return True

    assert sorted(at_once(*[submit] * 12)) == [False] * 7 + [True] * 5
    assert len(audits.page("acme").items) == 5


def test_a_full_tenant_gets_a_problem_that_says_when_to_come_back(api: Api) -> None:
    for _ in range(100):
        api.context.audits.submit("default", a_request(), None)
    refused = api.client.post("/v1/audits", json=BODY)
    problem(refused, 429, "tenant-active-limit")
    assert int(refused.headers["retry-after"]) > 0
    assert api.client.post("/v1/audits", json=BODY, headers=api.token(*ALL, tenant="other")).status_code == 202


def test_a_tenant_that_stores_too_much_is_refused_until_it_stores_less(api: Api) -> None:
    context, tenants = api.context, Tenants(api.context.engine)
    object.__setattr__(context, "audits", Audits(context.engine, limits=TenantLimits(stored_bytes=1000)))
    collector = make_collector(context.settings, context.engine, context.store)
    context.store.put("tenants/default/audits/nobodys/1/x", bytes(1000))
    context.store.put("tenants/other/audits/nobodys/1/x", bytes(999))
    for tenant in ("default", "other"):
        collector.collect(tenant)
    refused = api.client.post("/v1/audits", json=BODY)
    assert "1000" in problem(refused, 409, "tenant-storage-limit")["detail"]
    assert api.client.post("/v1/audits", json=BODY, headers=api.token(*ALL, tenant="other")).status_code == 202
    context.store.delete("tenants/default/audits/nobodys/1/x")
    collector.collect("default")
    assert api.client.post("/v1/audits", json=BODY).status_code == 202
    assert tenants.stored_bytes("nobody") == 0


def test_requests_count_as_stored_at_once_and_as_long_as_their_audits_exist(api: Api) -> None:
    context, tenants = api.context, Tenants(api.context.engine)
    audits = Audits(context.engine, limits=TenantLimits(stored_bytes=1))
    audit = audits.submit("acme", a_request(), None)[0].id
    held = tenants.stored_bytes("acme")
    assert held == len(a_request().model_dump_json().encode())
    with pytest.raises(TenantStorageLimit, match=str(held)):
        audits.submit("acme", a_request(), None)
    collector = make_collector(context.settings, context.engine, context.store)
    collector.collect("acme")
    assert tenants.stored_bytes("acme") == held
    audits.cancel("acme", audit)
    erase(audits, context.store, "acme", audit, by=None)
    collector.collect("acme")
    assert tenants.stored_bytes("acme") == 0
