"""Streams of events to their end, whoever ends them."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from peelbound import calls
from peelbound.errors import ProblemError
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.record import AuditState
from tests.synthetic_reports.runs import build_record
from tests.unit.client.conftest import Answer, Either

QUEUED = {"number": 1, "at": "2026-11-25T09:30:00.000Z", "type": "state", "data": {"state": "queued"}}
PROGRESS = {
    "number": 2,
    "at": "2026-11-25T09:30:01.000Z",
    "type": "progress",
    "data": {"phase": "checking", "problems_done": 1, "problems_planned": 2, "work_done": 1, "work_planned": 2},
}
ENDED = {"number": 3, "at": "2026-11-25T09:30:02.000Z", "type": "state", "data": {"state": "succeeded"}}


class Service:
    """Answers with one stream after another, and with an audit that has ended once that many streams have.

    Attributes:
        asked: after which event each stream was asked for.
    """

    def __init__(self, streams: list[list[dict[str, Any]]], ended_after: int) -> None:
        self.asked: list[int] = []
        self._streams, self._ended_after = streams, ended_after

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if not request.url.path.endswith("/events"):
            state = AuditState.SUCCEEDED if len(self.asked) >= self._ended_after else AuditState.RUNNING
            return httpx2.Response(
                200, json=json.loads(build_record().model_copy(update={"state": state}).model_dump_json())
            )
        stream = self._streams[len(self.asked)]
        self.asked.append(int(request.headers["Last-Event-ID"]))
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in stream)
        return httpx2.Response(200, text=body, headers={"Content-Type": "text/event-stream"})


@pytest.mark.parametrize(
    ("streams", "ended_after", "asked"),
    [
        pytest.param([[QUEUED, PROGRESS, ENDED]], 1, [0], id="one-stream"),
        pytest.param([[QUEUED], [PROGRESS], [ENDED]], 3, [0, 1, 2], id="replicas-end"),
        pytest.param([[QUEUED, PROGRESS], [ENDED]], 1, [0, 2], id="replica-ends-before-the-audit"),
        pytest.param([[QUEUED], [PROGRESS], [ENDED]], 1, [0, 1, 2], id="replicas-end-before-the-audit"),
    ],
)
def test_the_last_event_comes_whoever_ends_the_streams(
    answering: Callable[[Answer], None],
    either: Either,
    streams: list[list[dict[str, Any]]],
    ended_after: int,
    asked: list[int],
) -> None:
    service = Service(streams, ended_after)
    answering(service)
    assert [event.number for event in either.events("x")] == [1, 2, 3]
    assert service.asked == asked
    assert either.pauses == [calls.RECONNECT_SECONDS[0]] * (len(asked) - 1)


def test_a_stream_that_brings_nothing_of_an_audit_that_had_ended_is_the_last(
    answering: Callable[[Answer], None], either: Either
) -> None:
    service = Service([[], []], 1)
    answering(service)
    assert either.events("x", after=3) == []
    assert service.asked == [3, 3]


def busy(asked: str | None) -> httpx2.Response:
    """Refuses a stream to a tenant that has as many as it may."""
    problem = Problem.make("tenant-busy", "Too much is under way", 429, "As many as it may have.")
    headers = {} if asked is None else {"Retry-After": asked}
    return httpx2.Response(429, content=problem.model_dump_json(), headers=headers)


def test_a_place_for_a_stream_is_waited_for(answering: Callable[[Answer], None], either: Either) -> None:
    service, refusals = Service([[QUEUED, PROGRESS, ENDED]], 1), 2 * len(calls.RECONNECT_SECONDS)

    def answer(request: httpx2.Request) -> httpx2.Response:
        return busy("5") if len(either.pauses) < refusals else service(request)

    answering(answer)
    assert [event.number for event in either.events("x")] == [1, 2, 3]
    assert either.pauses == [5.0] * refusals


def test_who_is_not_told_when_to_come_again_gives_up(answering: Callable[[Answer], None], either: Either) -> None:
    answering(lambda _: busy(None))
    with pytest.raises(ProblemError):
        either.events("x")
    assert either.pauses == list(calls.RECONNECT_SECONDS)
