"""A trace leads from the request that submits an audit to its last solve, over processes and the database."""

import os
import subprocess
import sys

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.testclient import TestClient

from peelbound.api.app import create_app
from peelbound.service import tracing
from tests.integration.controller.collector import Collector
from tests.integration.controller.conftest import Inputs, Running
from tests.waiting import until

TRACE = "0123456789abcdef0123456789abcdef"
CALLER = "0123456789abcdef"


def attribute(span: Span, key: str) -> str | int:
    (value,) = [entry.value for entry in span.attributes if entry.key == key]
    return value.string_value or value.int_value


def test_a_trace_leads_from_the_request_to_the_last_solve(
    running: Running, inputs: Inputs, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in collector.environment().items():
        monkeypatch.setenv(name, value)
    with TestClient(create_app(running.service.settings), base_url="http://127.0.0.1:8734") as client:
        token = client.app.state.context.tokens.create("traced", "t", frozenset({"write"}))
        answer = client.post(
            "/v1/audits?token=secret",
            json=inputs.request().model_dump(mode="json", exclude_unset=True),
            headers={
                "Authorization": f"Bearer {token}",
                "traceparent": f"00-{TRACE}-{CALLER}-01",
                "X-Request-Id": "mine",
            },
        )
        assert answer.status_code == 202, answer.text
    audit = answer.json()["id"]
    running.service.succeeded(audit, "traced")

    def named(name: str) -> list[Span]:
        return [span for _, span in collector.of(TRACE) if span.name == name]

    until(lambda: named("attempt"))
    (post,) = named("POST /v1/audits")
    (attempt,) = named("attempt")
    solves = named("worker.solve_corrected")
    assert post.parent_span_id.hex() == CALLER
    assert attribute(post, "http.response.status_code") == 202
    assert attempt.parent_span_id == post.span_id
    assert attribute(attempt, "peelbound.audit_id") == audit
    assert attribute(attempt, "peelbound.request_id") == "mine"
    assert attribute(attempt, "peelbound.outcome") == "published"
    assert solves
    for span in solves:
        assert span.parent_span_id == attempt.span_id
        assert attempt.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= attempt.end_time_unix_nano
    assert {process for process, _ in collector.of(TRACE)} == {"peelbound-api", "peelbound-controller"}
    assert not any(b"secret" in span.SerializeToString() for _, span in collector.spans)
    assert "request_id=mine" in running.controller.said()


def test_nothing_is_loaded_and_no_span_is_made_while_traces_are_off() -> None:
    imports = "import gc, sys; gc.disable(); import peelbound.api.app, peelbound.service.controller.loop"
    program = f"{imports}; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", program], env=os.environ, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
    with tracing.span("nothing") as span:
        assert span is None
        assert tracing.traceparent() is None
    tracing.ended_span("nothing", 1.0, {})
