"""Two tenants on one service: neither sees, changes or counts what is the other's."""

import inspect
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest

from peelbound.service.database.audits import Audits
from peelbound.service.database.errors import AuditNotFound, RunNotFound, WebhookNotFound
from peelbound.service.database.log import Log
from peelbound.service.database.webhooks import Webhooks
from peelbound.service.schemas.webhook import WebhookChange, WebhookRequest
from tests.integration.database.harness import a_request
from tests.unit.api.harness import ALL, Api, problem

HOOK = WebhookRequest(url="https://hooks.example.com/")

PER_AUDIT = [
    ("GET", "/v1/audits/{id}"),
    ("GET", "/v1/audits/{id}/events"),
    ("GET", "/v1/audits/{id}/report"),
    ("GET", "/v1/audits/{id}/report.json"),
    ("GET", "/v1/audits/{id}/report.html"),
    ("GET", "/v1/audits/{id}/artifacts"),
    ("GET", "/v1/audits/{id}/artifacts/report.json"),
    ("POST", "/v1/audits/{id}/cancel"),
    ("DELETE", "/v1/audits/{id}"),
]
"""Every route that takes an audit's id; a test compares them with the OpenAPI document."""


def secret(api: Api, tenant: str) -> dict[str, str]:
    return api.token(*ALL, tenant=tenant)


@pytest.mark.parametrize(("method", "path"), PER_AUDIT)
def test_an_audit_of_another_tenant_is_answered_as_one_that_never_was(api: Api, method: str, path: str) -> None:
    ended = api.succeeded()
    waiting = api.submit()
    other = secret(api, "other")
    never = "01KACM2V7M3J0Q4S8R0V5N9T2E"
    expected = api.client.request(method, path.format(id=never), headers=other)
    problem(expected, 404, "audit-not-found")
    for audit_id in (ended, waiting):
        refused = api.client.request(method, path.format(id=audit_id), headers=other)
        assert refused.status_code == 404
        assert refused.text.replace(audit_id, never) == expected.text
        assert api.client.get(f"/v1/audits/{audit_id}").status_code == 200
    assert api.client.get(f"/v1/audits/{waiting}").json()["state"] == "queued"
    assert api.client.get(f"/v1/audits/{ended}/report.json").status_code == 200


def test_the_list_of_routes_with_an_audits_id_is_whole(api: Api) -> None:
    described = {
        (method.upper(), path.replace("{audit_id}", "{id}").replace("{name}", "report.json"))
        for path, methods in api.client.get("/openapi.json").json()["paths"].items()
        for method in methods
        if "{audit_id}" in path
    }
    assert described == set(PER_AUDIT)


PER_WEBHOOK: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/v1/webhooks/{id}", None),
    ("PATCH", "/v1/webhooks/{id}", {"enabled": False}),
    ("DELETE", "/v1/webhooks/{id}", None),
    ("POST", "/v1/webhooks/{id}/rotate", {}),
    ("POST", "/v1/webhooks/{id}/test", None),
    ("GET", "/v1/webhooks/{id}/deliveries", None),
    ("POST", "/v1/webhooks/{id}/deliveries/{delivery}/redeliver", None),
]
"""Every route that takes a webhook's id; a test compares them with the OpenAPI document."""


@pytest.mark.parametrize(("method", "path", "body"), PER_WEBHOOK)
def test_a_webhook_of_another_tenant_is_answered_as_one_that_never_was(
    api: Api, method: str, path: str, body: dict[str, Any] | None
) -> None:
    webhook = api.client.post("/v1/webhooks", json={"url": "https://hooks.example.com/"}).json()["id"]
    delivery = api.client.post(f"/v1/webhooks/{webhook}/test").json()["id"]
    before = api.client.get(f"/v1/webhooks/{webhook}/deliveries").json()
    other = secret(api, "other")
    never = "01KACM2V7M3J0Q4S8R0V5N9T2E"
    expected = api.client.request(method, path.format(id=never, delivery=delivery), json=body, headers=other)
    problem(expected, 404, "webhook-not-found")
    refused = api.client.request(method, path.format(id=webhook, delivery=delivery), json=body, headers=other)
    assert refused.text.replace(webhook, never) == expected.text
    assert api.client.get("/v1/webhooks", headers=other).json() == {"items": []}
    assert api.client.get(f"/v1/webhooks/{webhook}").json()["disabled_at"] is None
    assert api.client.get(f"/v1/webhooks/{webhook}/deliveries").json() == before


def test_the_list_of_routes_with_a_webhooks_id_is_whole(api: Api) -> None:
    described = {
        (method.upper(), path.replace("{webhook_id}", "{id}").replace("{delivery_id}", "{delivery}"))
        for path, methods in api.client.get("/openapi.json").json()["paths"].items()
        for method in methods
        if "{webhook_id}" in path
    }
    assert described == {(method, path) for method, path, _ in PER_WEBHOOK}


def test_lists_runs_logs_and_pages_hold_ones_own_only(api: Api) -> None:
    other = secret(api, "other")
    mine = api.submit(run="secret-run", labels={"team": "secret-team"})
    theirs = api.submit(headers=other, run="their-run")
    assert [record["id"] for record in api.client.get("/v1/audits").json()["items"]] == [mine]
    assert [record["id"] for record in api.client.get("/v1/audits", headers=other).json()["items"]] == [theirs]
    for filters in ({"run": "secret-run"}, {"label": "team:secret-team"}, {"checkpoint_prefix": "/data"}):
        ids = [record["id"] for record in api.client.get("/v1/audits", params=filters, headers=other).json()["items"]]
        assert mine not in ids
    assert api.client.get("/v1/runs", headers=other).json()["items"] == ["their-run"]
    for path in ("/v1/runs/secret-run", "/v1/runs/secret-run/report.html"):
        problem(api.client.get(path, headers=other), 404, "run-not-found")
    assert mine not in api.client.get("/v1/log", headers=other).text
    assert theirs not in api.client.get("/v1/log").text


def test_an_idempotency_key_is_the_tenants_own(api: Api) -> None:
    other = secret(api, "other")
    key = {"Idempotency-Key": "the-same"}
    mine = api.submit(headers=key, run="mine")
    theirs = api.submit(headers=other | key, run="theirs")
    assert mine != theirs


def test_a_cursor_of_another_tenant_gives_nothing_away(api: Api) -> None:
    other = secret(api, "other")
    for _ in range(3):
        api.submit()
    cursor = api.client.get("/v1/audits", params={"limit": 1}).json()["next_cursor"]
    page = api.client.get("/v1/audits", params={"cursor": cursor}, headers=other)
    assert page.json() == {"items": [], "next_cursor": None}


QUERIES: dict[str, Callable[[Audits, str, str], Any]] = {
    "get": lambda audits, tenant, audit: audits.get(tenant, audit),
    "state": lambda audits, tenant, audit: audits.state(tenant, audit),
    "small": lambda audits, tenant, audit: list(audits.small([(tenant, audit)])),
    "standings": lambda audits, tenant, audit: list(audits.standings([(tenant, audit)])),
    "require_ended": lambda audits, tenant, audit: audits.require_ended(tenant, audit),
    "cancel": lambda audits, tenant, audit: audits.cancel(tenant, audit),
    "delete": lambda audits, tenant, audit: audits.delete(tenant, audit),
    "events": lambda audits, tenant, audit: audits.events(tenant, audit),
    "manifest_key": lambda audits, tenant, audit: audits.manifest_key(tenant, audit),
    "run_series": lambda audits, tenant, audit: audits.run_series(tenant, "the-run"),
    "page": lambda audits, tenant, audit: audits.page(tenant),
    "runs": lambda audits, tenant, audit: audits.runs(tenant),
    "submit": lambda audits, tenant, audit: [
        record for record, _ in [audits.submit(tenant, a_request(), "the-key")] if record.id == audit
    ],
}
"""Every method of the repository."""


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_of_the_repository_reaches_another_tenant(api: Api, name: str) -> None:
    audit_id = api.context.audits.submit("default", a_request(run="the-run"), "the-key")[0].id
    ask = QUERIES[name]
    if name in ("small", "standings", "page", "runs", "submit"):
        found = ask(api.context.audits, "other", audit_id)
        assert not getattr(found, "items", found)
    else:
        with pytest.raises((AuditNotFound, RunNotFound)):
            ask(api.context.audits, "other", audit_id)
    assert api.context.audits.get("default", audit_id).state == "queued"


WEBHOOK_QUERIES: dict[str, Callable[[Webhooks, str, str], Any]] = {
    "create": lambda webhooks, _webhook, _: (
        [webhooks.create("other", HOOK, HOOK.url).id] != [found.id for found in webhooks.listed("other")]
    ),
    "listed": lambda webhooks, _webhook, _: webhooks.listed("other"),
    "get": lambda webhooks, webhook, _: webhooks.get("other", webhook),
    "change": lambda webhooks, webhook, _: webhooks.change("other", webhook, WebhookChange(enabled=False), None),
    "rotate": lambda webhooks, webhook, _: webhooks.rotate("other", webhook, timedelta()),
    "delete": lambda webhooks, webhook, _: webhooks.delete("other", webhook),
    "test": lambda webhooks, webhook, _: webhooks.test("other", webhook),
    "redeliver": lambda webhooks, webhook, delivery: webhooks.redeliver("other", webhook, delivery),
    "deliveries": lambda webhooks, webhook, _: webhooks.deliveries("other", webhook),
}
"""Every method of the webhooks' repository."""


@pytest.mark.parametrize("name", WEBHOOK_QUERIES)
def test_no_query_of_webhooks_reaches_another_tenant(api: Api, name: str) -> None:
    webhooks, ask = api.context.webhooks, WEBHOOK_QUERIES[name]
    webhook = webhooks.create("default", HOOK, HOOK.url).id
    delivery = webhooks.test("default", webhook)
    if name in ("create", "listed"):
        assert not ask(webhooks, webhook, delivery.id)
    else:
        with pytest.raises(WebhookNotFound):
            ask(webhooks, webhook, delivery.id)
    assert [found.id for found in webhooks.listed("default")] == [webhook]
    assert webhooks.get("default", webhook).disabled_at is None
    assert webhooks.deliveries("default", webhook).items == [delivery]


def test_a_delivery_of_another_tenant_is_not_reached_through_ones_own_webhook(api: Api) -> None:
    webhooks = api.context.webhooks
    delivery = webhooks.test("default", webhooks.create("default", HOOK, HOOK.url).id)
    own = webhooks.create("other", HOOK, HOOK.url).id
    path = f"/v1/webhooks/{own}/deliveries/{delivery.id}/redeliver"
    problem(api.client.post(path, headers=secret(api, "other")), 404, "delivery-not-found")
    assert webhooks.deliveries("other", own).items == []


def test_a_page_of_the_log_holds_no_entry_of_another_tenant(api: Api) -> None:
    target = api.submit()
    assert api.context.log.page("default", target=target).items
    assert api.context.log.page("other", target=target).items == []


@pytest.mark.parametrize(("repository", "walked"), [(Audits, QUERIES), (Webhooks, WEBHOOK_QUERIES), (Log, {"page"})])
def test_the_list_of_queries_is_whole(repository: type, walked: Iterable[str]) -> None:
    public = {name for name, _ in inspect.getmembers(repository, inspect.isfunction) if not name.startswith("_")}
    assert public == set(walked)
