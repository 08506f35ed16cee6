"""What Prometheus reads: requests by route and status, time to the first byte, audits by state, the queue's age."""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peelbound.api.context import Context


class RequestMetrics:
    """ASGI middleware that counts requests by route template, so that ids never become labels."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self.app = app
        self.requests = Counter(
            "peelbound_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "peelbound_http_seconds",
            "Seconds until an answer begins; long polls wait on purpose.",
            ["method", "route"],
            registry=registry,
            buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "unmatched")
                self.requests.labels(scope["method"], route, message["status"]).inc()
                self.seconds.labels(scope["method"], route).observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, counted)


class AuditMetrics(Collector):
    """Asks the database when it is scraped, so that every replica tells the same."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges as of now."""
        audits = GaugeMetricFamily("peelbound_audits", "Audits by state.", labels=["state"])
        for state, count in self._context.leases.count_by_state().items():
            audits.add_metric([state], count)
        yield audits
        health = self._context.leases.health()
        yield GaugeMetricFamily(
            "peelbound_oldest_claimable_seconds",
            "Age of the oldest audit that a controller could take; 0 when none waits.",
            value=health.oldest_claimable_seconds or 0.0,
        )
        if health.controller_seen_seconds is not None:
            yield GaugeMetricFamily(
                "peelbound_controller_seen_seconds",
                "Seconds since a controller was last seen.",
                value=health.controller_seen_seconds,
            )
