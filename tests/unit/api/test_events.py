import json
from collections.abc import Iterator
from typing import Any

from httpx2 import EventSource

from tests.unit.api.harness import Api, problem


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


def test_the_stream_of_a_deleted_audit_is_a_problem_and_not_an_empty_stream(api: Api) -> None:
    audit_id = api.succeeded()
    api.client.delete(f"/v1/audits/{audit_id}")
    problem(api.client.get(f"/v1/audits/{audit_id}/events"), 404, "audit-not-found")


def test_a_last_event_id_that_is_no_number_is_refused(api: Api) -> None:
    url = f"/v1/audits/{api.submit()}/events"
    document = problem(api.client.get(url, headers={"Last-Event-ID": "x"}), 422, "parameter-invalid")
    assert document["errors"][0]["parameter"] == "last-event-id"
