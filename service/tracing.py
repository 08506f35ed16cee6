"""Traces of an audit from the request that submits it to its last solve, by OpenTelemetry; off unless asked for.

While they are off nothing of OpenTelemetry is imported and a span is a comparison with None. The context travels in the
audit's row as a `traceparent` (W3C Trace Context), so that whichever controller takes the audit joins its trace.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from peelbound.service.settings import Settings
from peelbound.workers.errors import UserError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

Kind = Literal["internal", "server"]

_tracer: "Tracer | None" = None


@contextmanager
def tracing(settings: Settings, process: str) -> Iterator[None]:
    """Send the spans of this process to a collector meanwhile, where the settings ask for it.

    The collector, its headers and the share of traces that is kept are OpenTelemetry's own variables:
    `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`.

    Args:
        settings: the service's.
        process: `peelbound-api` or `peelbound-controller`, unless `OTEL_SERVICE_NAME` says otherwise.

    Raises:
        UserError: the extra `traces` is not installed (slug ``settings-invalid``).
    """
    global _tracer
    if not settings.traces:
        yield
        return
    provider = _provider(process)
    _tracer = provider.get_tracer("peelbound")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


def _provider(process: str) -> "TracerProvider":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UserError(
            f"PEELBOUND_TRACES is set, and {error.name} is not installed.",
            remedy="pip install 'peelbound[traces]', or leave PEELBOUND_TRACES out.",
            slug="settings-invalid",
        ) from error
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": process}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def enabled() -> bool:
    """Whether this process writes spans."""
    return _tracer is not None


@contextmanager
def span(
    name: str, *, parent: str | None = None, kind: Kind = "internal", attributes: Mapping[str, Any] | None = None
) -> "Iterator[Span | None]":
    """A span around the block, below the current one or `parent`; an exception marks it as failed.

    Args:
        name: of the kind of work; what differs from one to the next belongs into the attributes.
        parent: a `traceparent`; None is the current span.
        kind: `server` for a request that is answered.
        attributes: what is known at the start.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind

    kinds = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER}
    with _tracer.start_as_current_span(name, _context(parent), kinds[kind], attributes) as current:
        yield current


def ended_span(name: str, seconds: float, attributes: Mapping[str, Any]) -> None:
    """A span of work elsewhere that has ended just now, below the current one.

    Workers need no OpenTelemetry so: they measure how long a task took, and the controller writes it down.
    """
    if _tracer is None:
        return
    now = time.time_ns()
    _tracer.start_span(name, attributes=attributes, start_time=now - int(seconds * 1e9)).end(now)


def failed(error: Exception) -> None:
    """Mark the current span as failed by an exception that goes no further."""
    if _tracer is None:
        return
    from opentelemetry.trace import Status, StatusCode, get_current_span

    current = get_current_span()
    current.record_exception(error)
    current.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))  # as `span` does


def traceparent() -> str | None:
    """The current span as a `traceparent`; None where there is none, or it is not kept."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def _context(parent: str | None) -> Any:
    if parent is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent})
