"""A trace leads from the request that submits an audit to its last solve, over processes and the database."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.testclient import TestClient

from peelbound.api.app import create_app
from peelbound.service import tracing
from peelbound.service.settings import Settings
from tests.integration.controller.conftest import Inputs
from tests.integration.controller.harness import a_controller, a_service
from tests.waiting import until

CALLER = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


class Collector(ThreadingHTTPServer):
    """An OpenTelemetry collector that keeps what it is told: the process, then the span."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        super().__init__(("127.0.0.1", 0), Receiver)

    def named(self, name: str) -> list[Span]:
        return [span for _, span in list(self.spans) if span.name == name]


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            known = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.server.spans += [(known["service.name"], span) for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield server
        server.shutdown()
        thread.join()


def attribute(span: Span, key: str) -> str | int:
    (value,) = [entry.value for entry in span.attributes if entry.key == key]
    return value.string_value or value.int_value


def test_a_trace_leads_from_the_request_to_the_last_solve(inputs: Inputs, collector: Collector, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", allow=[str(inputs.directory)], workers=1, traces=True)
    with a_service(settings) as service, a_controller(settings, tmp_path / "log"):
        with TestClient(create_app(settings), base_url="http://127.0.0.1:8734") as client:
            token = client.app.state.context.tokens.create("tests", "t", frozenset({"write"}))
            answer = client.post(
                "/v1/audits?token=secret",
                json=inputs.request().model_dump(mode="json", exclude_unset=True),
                headers={"Authorization": f"Bearer {token}", "traceparent": CALLER, "X-Request-Id": "mine"},
            )
            assert answer.status_code == 202, answer.text
        audit = answer.json()["id"]
        service.succeeded(audit)
        until(lambda: collector.named("attempt"))
    (post,) = collector.named("POST /v1/audits")
    (attempt,) = collector.named("attempt")
    solves = collector.named("worker.solve_corrected")
    assert post.trace_id.hex() == CALLER.split("-")[1]
    assert post.parent_span_id.hex() == CALLER.split("-")[2]
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
    assert {span.trace_id for _, span in collector.spans} == {post.trace_id}
    assert {process for process, _ in collector.spans} == {"peelbound-api", "peelbound-controller"}
    assert not any(b"secret" in span.SerializeToString() for _, span in collector.spans)
    assert "request_id=mine" in (tmp_path / "log").read_text()


def test_nothing_is_loaded_and_no_span_is_made_while_traces_are_off() -> None:
    program = (
        "import sys, peelbound.api.app, peelbound.service.controller.loop; print('opentelemetry.sdk' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], env=os.environ, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
    with tracing.span("nothing") as span:
        assert span is None
        assert tracing.traceparent() is None
    tracing.ended_span("nothing", 1.0, {})
