"""What a line of the log says."""

import json
import logging
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.responses import StreamingResponse

from peelbound.service import tracing
from peelbound.service.logs import LogFormat, configure_logs, log_context
from tests.unit.api.harness import Api, api, problem, settings

__all__ = ["api", "settings"]


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # `configure_logs` closes those that it finds
    yield
    root.handlers = handlers
    root.setLevel(level)


def lines(log_format: LogFormat, capsys: pytest.CaptureFixture[str]) -> list[str]:
    configure_logs(log_format)
    log = logging.getLogger("here")
    log.info("alone")
    with log_context(audit_id="A", attempt=2), log_context(request_id="R"):
        log.warning("within %s", "both", extra={"cause": "storage-full"})
        try:
            raise ValueError("two\nlines")
        except ValueError:
            log.exception("broken")
    log.info("alone again")
    return capsys.readouterr().err.splitlines()


def test_a_json_line_has_the_context_the_extras_and_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    alone, within, broken, again = (json.loads(line) for line in lines("json", capsys))
    time = within.pop("time")
    assert time.endswith("+00:00")
    assert within == {
        "level": "WARNING",
        "logger": "here",
        "message": "within both",
        "cause": "storage-full",
        "audit_id": "A",
        "attempt": 2,
        "request_id": "R",
    }
    assert "ValueError: two\nlines" in broken["exception"]
    assert broken["audit_id"] == "A"
    assert {"audit_id", "request_id"}.isdisjoint(alone | again)


def test_a_plain_line_ends_with_the_context(capsys: pytest.CaptureFixture[str]) -> None:
    found = lines("plain", capsys)
    assert found[0].endswith("INFO here: alone")
    assert found[1].endswith("WARNING here: within both [audit_id=A attempt=2 request_id=R]")
    assert found[-1].endswith("INFO here: alone again")


def test_a_request_is_logged_with_its_id_and_without_its_query(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json")
    audit_id = api.client.post(
        "/v1/audits",
        json={"checkpoint": "/data/c", "calibration": {"uri": "/data/t"}},
        headers={"X-Request-Id": "mine"},
    ).json()["id"]
    api.client.get("/v1/audits?cursor=secret%0Aforged", headers={"X-Request-Id": "other"})
    api.client.get("/healthz")
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    access = [line for line in found if line["logger"] == "peelbound.api.access_log"]
    assert [(line["method"], line["path"], line["status"], line["request_id"]) for line in access] == [
        ("POST", "/v1/audits", 202, "mine"),
        ("GET", "/v1/audits", 422, "other"),
    ]
    assert {line["tenant"] for line in access} == {"default"}
    assert all("secret" not in json.dumps(line) for line in found if line["logger"].startswith("peelbound"))
    (accepted,) = [line for line in found if line["logger"] == "peelbound.api.routes.audits"]
    assert (accepted["audit_id"], accepted["request_id"]) == (audit_id, "mine")


def test_an_unexpected_error_is_logged_counted_and_traced_as_of_its_request(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    api.client.app.add_api_route("/broken", broken)
    configure_logs("json")
    response = api.client.get("/broken", headers={"X-Request-Id": "mine"})
    problem(response, 500, "internal")
    assert (response.headers["x-request-id"], response.headers["connection"]) == ("mine", "close")
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (told,) = [line for line in found if "RuntimeError: broken" in line.get("exception", "")]
    (access,) = [line for line in found if line["logger"] == "peelbound.api.access_log"]
    assert (told["request_id"], access["request_id"], access["status"]) == ("mine", "mine", 500)
    counted = 'peelbound_http_requests_total{method="GET",route="/broken",status="500"} 1.0'
    assert counted in api.client.get("/metrics").text
    (span,) = spans.get_finished_spans()
    assert (span.status.status_code, span.attributes["http.response.status_code"]) == (StatusCode.ERROR, 500)
    assert [event.name for event in span.events] == ["exception"]


def test_an_answer_that_breaks_off_is_not_answered_twice(api: Api) -> None:
    def begun() -> Iterator[str]:
        yield "begun"
        raise RuntimeError("broken")

    api.client.app.add_api_route("/begun", lambda: StreamingResponse(begun()))
    assert api.client.get("/begun").text == "begun"
