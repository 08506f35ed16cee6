"""A client of this version reads the answers of a service of a later one, which has more fields."""

import json

import httpx2
import pytest
from pydantic import ValidationError

from peelbound import calls
from peelbound.errors import ProblemError
from peelbound.service.schemas.request import AuditRequest
from tests.synthetic_reports.runs import build_record

LATER = {"of_a_later_version": [1]}


def test_an_audits_record_is_read_without_fields_that_are_not_known_and_with_all_that_its_problem_says() -> None:
    record = build_record()
    problem = {"type": "/problems/x", "title": "x", "status": 422, "detail": "x", "bytes_needed": 7}
    body = json.loads(record.model_dump_json()) | LATER | {"problem": problem}
    body["request"] |= LATER
    body["request"]["calibration"] |= LATER
    read = calls.get(record.id, 0).read(httpx2.Response(200, json=body))
    assert read.request == record.request
    assert read.problem is not None
    assert read.problem.model_extra == {"bytes_needed": 7}


def test_an_event_is_read_without_fields_that_are_not_known() -> None:
    event = {"number": 3, "at": "2026-11-25T09:30:00.000Z", "type": "state", "data": {"state": "succeeded"} | LATER}
    following = calls.Following(0)
    read = following.take(httpx2.ServerSentEvent(data=json.dumps(event | LATER)))
    assert (read.number, read.data["of_a_later_version"], following.ended) == (3, [1], True)


def test_a_request_with_fields_that_are_not_known_is_refused() -> None:
    body = {"checkpoint": "/data/ckpt", "calibration": {"uri": "/data/text.jsonl"}}
    for odd in (body | LATER, body | {"calibration": body["calibration"] | LATER}):  # type: ignore[operator] # JSON: a dict
        with pytest.raises(ValidationError):
            AuditRequest.model_validate_json(json.dumps(odd))


def message(event: dict[str, object]) -> httpx2.ServerSentEvent:
    return httpx2.ServerSentEvent(data=json.dumps(event))


def test_an_event_of_a_kind_that_is_not_known_is_passed_over() -> None:
    following = calls.Following(2)
    assert following.take(message({"number": 3, "type": "advice", "text": "of a later version"})) is None
    assert (following.after, following.ended) == (3, False)


def test_a_state_that_is_not_known_is_none_that_ends_an_audit() -> None:
    event = {"number": 3, "at": "2026-11-25T09:30:00.000Z", "type": "state", "data": {"state": "paused"}}
    following = calls.Following(2)
    assert following.take(message(event)) is not None
    assert not following.ended


def test_progress_of_a_form_that_is_not_known_is_none() -> None:
    known = {"phase": "checking", "problems_done": 1, "problems_planned": 2, "work_done": 1, "work_planned": 2}
    for data, said in ((known | LATER, "checking"), (known | {"problems_done": "a few"}, None)):
        event = {"number": 3, "at": "2026-11-25T09:30:00.000Z", "type": "progress", "data": data}
        taken = calls.Following(2).take(message(event))
        assert taken is not None
        progress = calls.progress_of(taken)
        assert (progress and progress.phase) == said


@pytest.mark.parametrize(
    ("answer", "where"),
    [({"state": "paused"}, "state"), ({"attempt": None}, "attempt"), (["an audit"], ""), ("hello", "")],
)
def test_an_answer_of_a_form_that_is_not_known_is_said_to_be_of_another_version(answer: object, where: str) -> None:
    body = json.loads(build_record().model_dump_json()) | answer if isinstance(answer, dict) else answer
    request = httpx2.Request("GET", "http://127.0.0.1/v1/audits/x")
    with pytest.raises(ProblemError, match=rf"another version of Peelbound than this.*\({where}: ") as refused:
        calls.get("x", 0).read(httpx2.Response(200, json=body, request=request))
    assert refused.value.problem.slug == "other-version"


def test_a_message_that_is_no_event_is_said_to_be_of_another_version() -> None:
    for data in ("{}", "hello", '{"number": 0, "type": "state"}', '{"number": 3, "type": "state"}'):
        with pytest.raises(ProblemError, match="An event was written by another version"):
            calls.Following(2).take(httpx2.ServerSentEvent(data=data))
