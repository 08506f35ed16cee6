import json
from collections.abc import Iterator
from typing import Any

import pytest
from httpx2 import EventSource

from peelbound.api import stream
from peelbound.service.settings import Settings
from tests.unit.api.harness import Api, problem
from tests.waiting import until


def numbered(source: EventSource) -> Iterator[tuple[int, dict[str, Any]]]:
    for message in source:
        event = json.loads(message.data)
        assert message.id == str(event["number"])
        assert message.event == event["type"]
        yield event["number"], event


def test_the_stream_follows_an_audit_live_and_ends_with_it(api: Api) -> None:
    audit_id = api.submit()
    with api.client.sse(f"/v1/audits/{audit_id}/events") as source:
        assert source.response.headers["content-type"].startswith("text/event-stream")
        events = numbered(source)
        assert next(events)[1]["data"]["state"] == "queued"
        claim = api.controller.claim()
        assert next(events)[1]["data"]["state"] == "running"
        api.controller.advance(claim, 3)
        number, event = next(events)
        assert (number, event["type"], event["data"]["problems_done"]) == (3, "progress", 3)
        api.controller.publish(claim)
        assert [event["data"]["state"] for _, event in events] == ["succeeded"]


def test_a_resumed_stream_misses_and_repeats_nothing(api: Api) -> None:
    audit_id = api.submit()
    claim = api.controller.claim()
    for done in range(4):
        api.controller.advance(claim, done)
    api.controller.publish(claim)
    url = f"/v1/audits/{audit_id}/events"

    def numbers(params: dict[str, int], headers: dict[str, str]) -> list[int]:
        with api.client.sse(url, params=params, headers=headers) as source:
            return [number for number, _ in numbered(source)]

    assert numbers({}, {}) == [1, 2, 3, 4, 5, 6, 7]
    assert numbers({"after": 3}, {}) == [4, 5, 6, 7]
    assert numbers({"after": 3}, {"Last-Event-ID": "5"}) == [6, 7]
    assert numbers({}, {"Last-Event-ID": "7"}) == []


def test_more_events_than_one_query_brings_arrive_in_order(api: Api) -> None:
    audit_id = api.submit()
    claim = api.controller.claim()
    for done in range(520):
        api.controller.advance(claim, done, planned=520)
    api.controller.publish(claim)
    with api.client.sse(f"/v1/audits/{audit_id}/events") as source:
        assert [number for number, _ in numbered(source)] == list(range(1, 524))


class TestBounds:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"tenant_open_streams": 1})

    def test_a_tenant_holds_no_more_streams_and_polls_open_than_it_may(self, api: Api) -> None:
        audit_id = api.submit()
        url = f"/v1/audits/{audit_id}"
        with api.client.sse(f"{url}/events") as source:
            events = numbered(source)
            assert next(events)[0] == 1
            refused = api.client.get(f"{url}/events")
            problem(refused, 429, "tenant-busy")
            assert int(refused.headers["retry-after"]) > 0
            problem(api.client.get(url, params={"wait": 1}), 429, "tenant-busy")
            assert api.client.get(url).status_code == 200
            other = api.token("read", "write", tenant="other")
            theirs = f"/v1/audits/{api.submit(headers=other)}"
            assert api.client.get(theirs, params={"wait": 0.01}, headers=other).status_code == 200
            api.client.post(f"{url}/cancel")
            assert [number for number, _ in events] == [2]
        until(lambda: api.client.get(url, params={"wait": 1}).status_code == 200)

    def test_an_old_stream_ends_to_be_resumed(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "LONGEST_SECONDS", 0.1)
        url = f"/v1/audits/{api.submit()}/events"
        with api.client.sse(url) as source:
            assert [number for number, _ in numbered(source)] == [1]
        with api.client.sse(url, headers={"Last-Event-ID": "1"}) as source:
            assert list(numbered(source)) == []


def test_the_stream_of_a_deleted_audit_is_a_problem_and_not_an_empty_stream(api: Api) -> None:
    audit_id = api.succeeded()
    api.client.delete(f"/v1/audits/{audit_id}")
    problem(api.client.get(f"/v1/audits/{audit_id}/events"), 404, "audit-not-found")


def test_a_last_event_id_that_is_no_number_is_refused(api: Api) -> None:
    url = f"/v1/audits/{api.submit()}/events"
    document = problem(api.client.get(url, headers={"Last-Event-ID": "x"}), 422, "parameter-invalid")
    assert document["errors"][0]["parameter"] == "last-event-id"
