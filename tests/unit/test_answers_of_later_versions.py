"""A client of this version reads the answers of a service of a later one, which has more fields."""

import json

import httpx2
import pytest
from pydantic import ValidationError

from peelbound import calls
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
