"""The synchronous client, method by method, against a real server."""

from collections.abc import Iterator
from types import SimpleNamespace

import httpx2
import pytest

from peelbound import calls
from peelbound import client as module
from peelbound.client import Client
from peelbound.errors import ProblemError
from peelbound.service.schemas.record import AuditState, Progress
from peelbound.service.schemas.webhook import (
    DeliveryState,
    DisabledBecause,
    Webhook,
    WebhookChange,
    WebhookEvent,
    WebhookRequest,
)
from tests.faulty_proxy import Fault, faulty_proxy
from tests.integration.client.harness import REQUEST, Service
from tests.synthetic_reports.whole import frozen_report


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, service.token) as client:
        yield client


def test_an_audit_from_submission_to_deletion(service: Service, client: Client) -> None:
    request = REQUEST.model_copy(update={"run": "team/a:1", "step": 7, "labels": {"owner": "me"}})
    record = client.submit(request, idempotency_key="once")
    assert record.request == request
    assert client.submit(request, idempotency_key="once").id == record.id
    seen: list[Progress] = []
    report = frozen_report()
    with service.ending_the_next(report):
        ended = client.wait(record.id, progress=seen.append)
    assert ended.state is AuditState.SUCCEEDED
    assert ended == client.get(record.id)
    assert [progress.problems_done for progress in seen] == [1, 2, 3]
    assert client.report(record.id) == report
    assert client.report_json(record.id) == report.model_dump_json().encode()
    assert "<html" in client.report_html(record.id)
    (artifact,) = client.artifacts(record.id)
    assert client.artifact(record.id, artifact.name) == client.report_json(record.id)
    assert client.runs() == ["team/a:1"]
    assert [point.step for point in client.run("team/a:1").points] == [7]
    assert "<html" in client.run_html("team/a:1")
    assert client.page(label=("owner", "me")).items == [ended]
    client.delete(record.id)
    with pytest.raises(ProblemError) as refused:
        client.get(record.id)
    assert refused.value.problem.slug == "audit-not-found"


def test_iterate_crosses_pages(client: Client) -> None:
    ids = [client.submit(REQUEST).id for _ in range(53)]
    assert [record.id for record in client.iterate()] == ids[::-1]
    assert list(client.iterate(run="none")) == []


def test_cancel_ends_a_wait(client: Client) -> None:
    record = client.submit(REQUEST)
    assert client.cancel(record.id).state is AuditState.CANCELLED
    assert client.wait(record.id).state is AuditState.CANCELLED


def test_a_webhook_from_creation_to_deletion(service: Service, client: Client) -> None:
    made = client.create_webhook(WebhookRequest(url="https://hooks.example.com/x", description="for CI"))
    webhook = Webhook.model_validate(made.model_dump(exclude={"secret"}))
    assert client.webhooks() == [webhook]
    assert client.webhook(made.id) == webhook
    client.cancel(client.submit(REQUEST).id)
    told, tested = client.deliveries(made.id).items[0], client.test_webhook(made.id)
    assert (told.type, tested.type) == ("audit.cancelled", "webhook.test")
    assert client.redeliver(made.id, told.id).state is DeliveryState.PENDING
    assert [d.id for d in client.deliveries(made.id, state=DeliveryState.PENDING, limit=1).items] == [tested.id]
    rotated = client.rotate_webhook(made.id, overlap_seconds=60)
    assert rotated.secret != made.secret
    assert rotated.previous_secret_until is not None
    changed = client.update_webhook(made.id, WebhookChange(enabled=False, events=[WebhookEvent.FAILED]))
    assert (changed.events, changed.disabled_because) == ([WebhookEvent.FAILED], DisabledBecause.REQUESTED)
    client.delete_webhook(made.id)
    assert client.webhooks() == []
    with pytest.raises(ProblemError) as refused:
        client.create_webhook(WebhookRequest(url="https://10.0.0.1/"))
    assert refused.value.problem.pointer == "/url"


def test_a_refusal_is_an_error_with_the_problem(client: Client) -> None:
    with pytest.raises(ProblemError, match=r"may be read.*PEELBOUND_ALLOW") as refused:
        client.submit(REQUEST.model_copy(update={"checkpoint": "/etc"}))
    assert refused.value.problem.pointer == "/checkpoint"
    with pytest.raises(ProblemError):
        next(client.events("unknown"))


def test_a_wrong_token_is_an_error_at_once_also_for_streams(service: Service) -> None:
    with Client(service.url, "peel_wrong") as stranger, pytest.raises(ProblemError) as refused:
        next(stranger.events("x"))
    assert refused.value.problem.status == 401


def test_events_survive_broken_connections_without_loss_or_repetition(service: Service) -> None:
    with Client(service.url, service.token) as direct:
        record = direct.submit(REQUEST)
        claim = service.controller.claim()
        for done in range(60):
            service.controller.advance(claim, done, planned=60)
        service.controller.publish(claim)
        whole = list(direct.events(record.id))
    with (
        faulty_proxy(service.url, cut_after=3000, cuts=3) as proxy,
        Client(proxy.endpoint_url, service.token) as client,
    ):
        resumed = list(client.events(record.id))
    assert proxy.faults == 3
    assert resumed == whole
    assert [event.number for event in resumed] == list(range(1, 64))


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.RESET])
def test_a_verdict_is_not_lost_to_an_answer_that_fails_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    with (
        Client(service.url, service.token) as direct,
        faulty_proxy(service.url) as proxy,
        Client(proxy.endpoint_url, service.token) as client,
    ):
        record = direct.submit(REQUEST)
        direct.cancel(record.id)
        pauses: list[float] = []

        def fail_once(request: httpx2.Request) -> None:
            if request.url.path.endswith(record.id) and not pauses:
                proxy.fault = fault

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            proxy.fault = None

        client._http.event_hooks["request"].append(fail_once)
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep))
        assert client.wait(record.id).state is AuditState.CANCELLED
    assert pauses == [calls.RECONNECT_SECONDS[0]]


def test_a_queued_audit_outlasts_any_number_of_cut_streams(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Client(service.url, service.token) as direct,
        faulty_proxy(service.url) as proxy,
        Client(proxy.endpoint_url, service.token) as client,
    ):
        record = direct.submit(REQUEST)
        events = client.events(record.id)
        next(events)  # no other comes while the audit is queued
        proxy.heads_only = True
        proxy.hang_up()
        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == len(calls.RECONNECT_SECONDS) + 1:
                proxy.heads_only = False
                direct.cancel(record.id)

        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep))
        assert [event.data["state"] for event in events] == ["cancelled"]
    assert set(pauses) == {calls.RECONNECT_SECONDS[0]}


def test_a_stream_that_a_replica_ends_is_asked_for_again_after_a_pause(
    draining: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(draining.url, draining.token) as client:
        record = client.submit(REQUEST)
        asked: list[str] = []
        pauses: list[float] = []

        def count(request: httpx2.Request) -> None:
            if request.url.path.endswith("/events"):
                asked.append(request.url.path)
                if len(asked) == 3:
                    client.cancel(record.id)

        client._http.event_hooks["request"].append(count)
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=pauses.append))
        assert client.wait(record.id).state is AuditState.CANCELLED
    assert pauses == 3 * [calls.RECONNECT_SECONDS[0]]


def test_a_wait_that_the_service_asks_for_is_kept_to_within_reason() -> None:
    for asked, kept in (("3", 3.0), ("3600", max(calls.RECONNECT_SECONDS)), ("soon", 0.2), (None, 0.2)):
        headers = {} if asked is None else {"Retry-After": asked}
        answer = httpx2.Response(429, headers=headers, request=httpx2.Request("GET", "http://127.0.0.1/"))
        following = calls.Following(0)
        assert following.pause(calls.problem_of(answer)) == kept
        following.begin(answer)
        assert following.rest() == kept


def test_a_server_that_is_gone_for_good_is_an_error(service: Service) -> None:
    with (
        faulty_proxy(service.url, cut_after=0, cuts=1000) as proxy,
        Client(proxy.endpoint_url, service.token) as client,
        pytest.raises(httpx2.TransportError),
    ):
        client.get("x")
