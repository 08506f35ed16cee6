"""Webhooks through the API and the command line, and the deliverer at work beside them."""

import json
import threading
from pathlib import Path

import pytest

from peelbound.service.database.webhooks import MOST_WEBHOOKS
from peelbound.service.settings import Settings
from peelbound.service.webhooks.deliverer import delivering
from tests.integration.cli.conftest import Run, run, served, surroundings
from tests.integration.client.harness import Service, service
from tests.unit.api.harness import Api, api, problem
from tests.webhook_receiver import receiving

__all__ = ["api", "run", "served", "service", "surroundings"]

TICK = threading.Event()


@pytest.fixture
def settings(tmp_path: Path, migrated_url: str) -> Settings:
    return Settings(
        state_dir=tmp_path,
        database_url=migrated_url,
        allow=["/data"],
        request_burst=10_000,
        webhook_allow=["127.0.0.1"],
    )


def test_an_audits_end_arrives_while_a_deliverer_runs(api: Api, settings: Settings) -> None:
    with receiving() as receiver, delivering(settings, api.context.engine), delivering(settings, api.context.engine):
        made = api.client.post("/v1/webhooks", json={"url": receiver.url}).json()
        audit_ids = {api.succeeded() for _ in range(5)}
        path = f"/v1/webhooks/{made['id']}/deliveries"
        while len(api.client.get(path, params={"state": "delivered"}).json()["items"]) < 5:
            TICK.wait(0.05)
        told = [json.loads(got.body)["data"]["id"] for got in receiver.received]
    assert sorted(told) == sorted(audit_ids)
    for delivery in api.client.get(path).json()["items"]:
        assert delivery["state"] == "delivered"
        assert [attempt["status"] for attempt in delivery["attempts"]] == [204]


def test_a_secret_is_shown_once(api: Api) -> None:
    made = api.client.post("/v1/webhooks", json={"url": "https://hooks.example.com/"})
    assert made.status_code == 201
    secret = made.json()["secret"]
    webhook = made.headers["location"]
    rotated = api.client.post(f"{webhook}/rotate", json={}).json()["secret"]
    for answer in (
        api.client.get(webhook),
        api.client.get("/v1/webhooks"),
        api.client.patch(webhook, json={"description": "x"}),
        api.client.post(f"{webhook}/test"),
        api.client.get(f"{webhook}/deliveries"),
        api.client.get("/v1/log"),
    ):
        assert answer.is_success
        assert secret not in answer.text
        assert rotated not in answer.text


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://hooks.example.com/services/T0/B1/s3cret?key=s3cret", "https://hooks.example.com/***"),
        ("https://hooks.example.com:8443/?key=s3cret", "https://hooks.example.com:8443/***"),
        ("https://[2606:4700::1111]/s3cret", "https://[2606:4700::1111]/***"),
    ],
)
def test_a_url_is_shown_in_full_to_those_who_may_change_it_only(api: Api, url: str, seen: str) -> None:
    made = api.client.post("/v1/webhooks", json={"url": url})
    assert made.json()["url"] == url
    here = made.headers["location"]
    api.client.post(f"{here}/test")
    reader, writer, admin = api.token("read"), api.token("read", "write"), api.token("read", "admin")
    for headers, shown in ((reader, seen), (writer, url), (admin, url)):
        assert api.client.get(here, headers=headers).json()["url"] == shown
        (listed,) = api.client.get("/v1/webhooks", headers=headers).json()["items"]
        assert listed["url"] == shown
    for path in (here, "/v1/webhooks", f"{here}/deliveries"):
        assert "s3cret" not in api.client.get(path, headers=reader).text


def test_changes_of_webhooks_are_logged(api: Api) -> None:
    webhook = api.client.post("/v1/webhooks", json={"url": "https://hooks.example.com/"}).json()["id"]
    delivery = api.client.post(f"/v1/webhooks/{webhook}/test").json()["id"]
    api.client.post(f"/v1/webhooks/{webhook}/deliveries/{delivery}/redeliver")
    api.client.post(f"/v1/webhooks/{webhook}/rotate", json={})
    api.client.patch(f"/v1/webhooks/{webhook}", json={"enabled": False})
    api.client.delete(f"/v1/webhooks/{webhook}")
    entries = [(entry["action"], entry["target"]) for entry in api.client.get("/v1/log").json()["items"]][::-1]
    assert entries == [
        ("webhook.create", webhook),
        ("webhook.test", webhook),
        ("webhook.redeliver", delivery),
        ("webhook.rotate", webhook),
        ("webhook.update", webhook),
        ("webhook.delete", webhook),
    ]


@pytest.mark.parametrize(
    ("body", "slug", "pointer"),
    [
        ({"url": "https://169.254.169.254/latest/meta-data"}, "webhook-url-refused", "/url"),
        ({"url": "http://hooks.internal/", "events": []}, "request-invalid", "/events"),
        ({"url": "https://x.example", "events": ["audit.started"]}, "request-invalid", "/events/0"),
        ({"url": "https://x.example", "secret": "whsec_mine"}, "request-invalid", "/secret"),
        ({"url": "https://x.example", "description": "a\nb"}, "request-invalid", "/description"),
        ({}, "request-invalid", "/url"),
    ],
)
def test_what_cannot_be_a_webhook_is_refused_where_it_is_wrong(
    api: Api, body: dict[str, object], slug: str, pointer: str
) -> None:
    assert problem(api.client.post("/v1/webhooks", json=body), 422, slug)["pointer"] == pointer
    webhook = api.client.post("/v1/webhooks", json={"url": "https://hooks.example.com/"}).headers["location"]
    if "url" in body:
        assert problem(api.client.patch(webhook, json=body), 422, slug)["pointer"] == pointer
        assert api.client.get(webhook).json()["url"] == "https://hooks.example.com/"


def test_what_does_not_exist_and_what_is_too_much_is_said(api: Api) -> None:
    for _ in range(MOST_WEBHOOKS):
        webhook = api.client.post("/v1/webhooks", json={"url": "https://hooks.example.com/"})
    problem(api.client.post("/v1/webhooks", json={"url": "https://hooks.example.com/"}), 409, "webhook-limit")
    assert len(api.client.get("/v1/webhooks").json()["items"]) == MOST_WEBHOOKS
    here = webhook.headers["location"]
    problem(api.client.post(f"{here}/deliveries/none/redeliver"), 404, "delivery-not-found")
    problem(api.client.get(f"{here}/deliveries", params={"cursor": "x"}), 422, "cursor-invalid")
    api.client.patch(here, json={"enabled": False})
    problem(api.client.post(f"{here}/test"), 409, "webhook-disabled")


def test_the_command_line_manages_webhooks(served: Run, service: Service) -> None:
    def peelbound(*words: str) -> str:
        done = served("webhook", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    made = json.loads(peelbound("create", "https://hooks.example.com/x", "--event", "audit.failed", "--json"))
    assert made["secret"].startswith("whsec_")
    assert made["events"] == ["audit.failed"]
    webhook = made["id"]
    assert made["secret"] not in peelbound("list")
    delivery = json.loads(peelbound("test", webhook, "--json"))["id"]
    assert delivery in peelbound("redeliver", webhook, delivery)
    assert "pending" in peelbound("deliveries", webhook)
    assert peelbound("rotate", webhook).split()[-1].startswith("whsec_")
    assert "disabled (requested)" in peelbound("update", webhook, "--disable", "--event", "audit.succeeded")
    peelbound("delete", webhook)
    assert json.loads(peelbound("list", "--json")) == {"items": []}
    refused = served("webhook", "create", "http://10.0.0.1/")
    assert refused.returncode == 3
    assert "PEELBOUND_WEBHOOK_ALLOW" in refused.stderr
