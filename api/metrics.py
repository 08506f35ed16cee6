"""What Prometheus reads of the API: requests, what is in use, and of the database audits, queue and controllers."""

import time
from collections.abc import Iterable

from anyio import CapacityLimiter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.pool import QueuePool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peelbound import __version__
from peelbound.api.context import Context
from peelbound.api.methods import known
from peelbound.service.database.outbox import oldest_due_seconds


class RequestMetrics:
    """ASGI middleware that counts requests by route template: neither ids nor what strangers make up become labels."""

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
        self.in_progress = Gauge(
            "peelbound_http_in_progress", "Requests being answered, event streams included.", registry=registry
        )
        build = Gauge("peelbound_build_info", "1, with the version as a label.", ["version"], registry=registry)
        build.labels(__version__).set(1)
        ProcessCollector(registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, method = time.perf_counter(), known(scope["method"])

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "unmatched")
                self.requests.labels(method, route, message["status"]).inc()
                self.seconds.labels(method, route).observe(time.perf_counter() - began)
            await send(message)

        with self.in_progress.track_inprogress():
            await self.app(scope, receive, counted)


class ServiceMetrics(Collector):
    """Asks when it is scraped: the database, so that every replica tells the same, and this process what it uses."""

    def __init__(self, context: Context, threads: CapacityLimiter) -> None:
        """Bind.

        Args:
            context: the service.
            threads: whose tokens are the threads that routes run in.
        """
        self._context = context
        self._threads = threads

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges as of now."""
        yield from self._queue()
        yield from self._in_use()

    def _queue(self) -> Iterable[GaugeMetricFamily]:
        audits = GaugeMetricFamily("peelbound_audits", "Audits by state, over all tenants.", labels=["state"])
        for state, count in self._context.leases.count_by_state().items():
            audits.add_metric([state], count)
        yield audits
        health = self._context.leases.health()
        yield _gauge(
            "peelbound_oldest_claimable_seconds",
            "Age of the oldest audit that a controller could take; 0 when none waits.",
            health.oldest_claimable_seconds or 0.0,
        )
        yield _gauge(
            "peelbound_controllers", "Controllers that gave a sign of life within a lease's time.", health.controllers
        )
        yield _gauge(
            "peelbound_webhook_oldest_due_seconds",
            "How long the oldest message to a webhook has been due; 0 when none is.",
            oldest_due_seconds(self._context.engine),
        )
        if health.controller_seen_seconds is not None:
            yield _gauge(
                "peelbound_controller_seen_seconds",
                "Seconds since a controller was last seen.",
                health.controller_seen_seconds,
            )

    def _in_use(self) -> Iterable[GaugeMetricFamily]:
        yield _gauge("peelbound_threads_in_use", "Threads that routes run in.", self._threads.borrowed_tokens)
        yield _gauge("peelbound_threads_limit", "How many of them there may be.", self._threads.total_tokens)
        pool = self._context.engine.pool
        if isinstance(pool, QueuePool):
            yield _gauge("peelbound_database_connections_in_use", "Database connections in use.", pool.checkedout())
            yield _gauge(
                "peelbound_database_connections_limit",
                "How many of them there may be.",
                pool.size() + pool._max_overflow,  # it has no public name
            )


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
