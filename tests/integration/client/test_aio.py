"""The asynchronous client; what both share is tested with the synchronous one."""

import asyncio
import inspect
from types import SimpleNamespace

import httpx2
import pytest

from peelbound import aio as module
from peelbound import calls
from peelbound.aio import AsyncClient
from peelbound.client import Client
from peelbound.errors import ProblemError
from peelbound.service.schemas.record import AuditState, Progress
from peelbound.service.schemas.webhook import WebhookChange, WebhookRequest
from tests.faulty_proxy import Fault, faulty_proxy
from tests.integration.client.harness import REQUEST, Service
from tests.synthetic_reports.whole import sound_report


def test_an_audit_from_submission_to_deletion(service: Service) -> None:
    async def story() -> None:
        async with AsyncClient(service.url, service.token) as client:
            record = await client.submit(REQUEST.model_copy(update={"run": "r"}))
            seen: list[Progress] = []
            with service.ending_the_next(sound_report()):
                ended = await client.wait(record.id, progress=seen.append)
            assert ended.state is AuditState.SUCCEEDED
            assert len(seen) == 3
            assert (await client.report(record.id)).model_dump_json().encode() == await client.report_json(record.id)
            assert "<html" in await client.report_html(record.id)
            (artifact,) = await client.artifacts(record.id)
            assert await client.artifact(record.id, artifact.name) == await client.report_json(record.id)
            assert await client.runs() == ["r"]
            assert (await client.run("r")).points[0].audit_id == record.id
            assert "<html" in await client.run_html("r")
            assert [found.id async for found in client.iterate(run="r")] == [record.id]
            await client.delete(record.id)
            with pytest.raises(ProblemError):
                await client.get(record.id)
            made = await client.create_webhook(WebhookRequest(url="https://hooks.example.com/x"))
            queued = await client.submit(REQUEST)
            assert (await client.cancel(queued.id)).state is AuditState.CANCELLED
            assert [webhook.id for webhook in await client.webhooks()] == [(await client.webhook(made.id)).id]
            (told,) = (await client.deliveries(made.id)).items
            assert (await client.redeliver(made.id, told.id)).id == told.id
            assert (await client.test_webhook(made.id)).type == "webhook.test"
            assert (await client.rotate_webhook(made.id)).secret != made.secret
            assert (await client.update_webhook(made.id, WebhookChange(enabled=False))).disabled_at is not None
            await client.delete_webhook(made.id)

    asyncio.run(story())


def test_events_survive_broken_connections(service: Service) -> None:
    async def story() -> None:
        async with AsyncClient(service.url, service.token) as direct:
            record = await direct.submit(REQUEST)
        claim = service.controller.claim()
        for done in range(60):
            service.controller.advance(claim, done, planned=60)
        service.controller.publish(claim)
        with faulty_proxy(service.url, cut_after=3000, cuts=3) as proxy:
            async with AsyncClient(proxy.endpoint_url, service.token) as client:
                numbers = [event.number async for event in client.events(record.id)]
        assert proxy.faults == 3
        assert numbers == list(range(1, 64))

    asyncio.run(story())


def test_a_queued_audit_outlasts_any_number_of_cut_streams(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> set[float]:
        async with (
            AsyncClient(service.url, service.token) as direct,
            AsyncClient(proxy.endpoint_url, service.token) as client,
        ):
            record = await direct.submit(REQUEST)
            events = client.events(record.id)
            await anext(events)  # no other comes while the audit is queued
            proxy.heads_only = True
            proxy.hang_up()
            pauses: list[float] = []

            async def sleep(seconds: float) -> None:
                pauses.append(seconds)
                if len(pauses) == len(calls.RECONNECT_SECONDS) + 1:
                    proxy.heads_only = False
                    await direct.cancel(record.id)

            monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
            assert [event.data["state"] async for event in events] == ["cancelled"]
            return set(pauses)

    with faulty_proxy(service.url) as proxy:
        assert asyncio.run(story()) == {calls.RECONNECT_SECONDS[0]}


def test_a_verdict_is_not_lost_to_an_answer_that_fails_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> list[float]:
        async with AsyncClient(proxy.endpoint_url, service.token) as client:
            record = await client.submit(REQUEST)
            await client.cancel(record.id)
            pauses: list[float] = []

            async def fail_once(request: httpx2.Request) -> None:
                if request.url.path.endswith(record.id) and not pauses:
                    proxy.fault = Fault.UNAVAILABLE

            async def sleep(seconds: float) -> None:
                pauses.append(seconds)
                proxy.fault = None

            client._http.event_hooks["request"].append(fail_once)
            monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
            assert (await client.wait(record.id)).state is AuditState.CANCELLED
            return pauses

    with faulty_proxy(service.url) as proxy:
        assert asyncio.run(story()) == [calls.RECONNECT_SECONDS[0]]


def test_a_stream_that_a_replica_ends_is_asked_for_again_after_a_pause(
    draining: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    pauses: list[float] = []

    async def story() -> None:
        async with AsyncClient(draining.url, draining.token) as client:
            record = await client.submit(REQUEST)

            async def count(request: httpx2.Request) -> None:
                if request.url.path.endswith("/events"):
                    asked.append(request.url.path)
                    if len(asked) == 3:
                        await client.cancel(record.id)

            async def sleep(seconds: float) -> None:
                pauses.append(seconds)

            client._http.event_hooks["request"].append(count)
            monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
            assert (await client.wait(record.id)).state is AuditState.CANCELLED

    asyncio.run(story())
    assert pauses == 3 * [calls.RECONNECT_SECONDS[0]]


def test_both_clients_offer_the_same() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, callable)
        return {name: list(inspect.signature(member).parameters) for name, member in members if name[0] != "_"}

    assert public(AsyncClient) == public(Client)
