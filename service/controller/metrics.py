"""What Prometheus reads of a controller. Counting costs nanoseconds; nobody listens unless a port is set."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from peelbound import __version__
from peelbound.service.settings import Settings
from peelbound.workers.errors import UserError

log = logging.getLogger(__name__)

REGISTRY = CollectorRegistry()
"""Everything below, and the process's memory, CPU time and open files."""
ProcessCollector(registry=REGISTRY)

BUILD = Gauge("peelbound_build_info", "1, with the version as a label.", ["version"], registry=REGISTRY)
BUILD.labels(__version__).set(1)

ATTEMPTS = Counter(
    "peelbound_attempts",
    "Attempts at audits that ended here, by outcome: published, discarded, lease_lost, cancelled, handed_back, failed "
    "(by the request or the checkpoint) or retried (by the infrastructure; the last one ends the audit as failed).",
    ["outcome"],
    registry=REGISTRY,
)
ATTEMPT_SECONDS = Histogram(
    "peelbound_attempt_seconds",
    "Seconds from the claim of an audit to the end of the attempt.",
    registry=REGISTRY,
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)
ATTEMPTS_RUNNING = Gauge("peelbound_attempts_running", "Audits that this controller has in hand.", registry=REGISTRY)
RETRIES = Counter(
    "peelbound_retries",
    "Attempts that infrastructure ended, by the slug of the cause; lease-lost is counted by whoever takes over.",
    ["cause"],
    registry=REGISTRY,
)
WORKERS_REPLACED = Counter(
    "peelbound_workers_replaced", "Lost workers that were replaced within an attempt.", registry=REGISTRY
)
PROBLEMS = Counter(
    "peelbound_problems",
    "Peel problems, by how their solution came: solved now, or found in object storage.",
    ["how"],
    registry=REGISTRY,
)
CHECKPOINT_BYTES = Counter(
    "peelbound_checkpoint_read_bytes", "Bytes of checkpoints that walks have read.", registry=REGISTRY
)
SOLUTION_BYTES = Counter(
    "peelbound_solution_written_bytes",
    "Bytes of solutions that workers have put into object storage.",
    registry=REGISTRY,
)
WORKERS = Gauge("peelbound_workers", "Workers of this controller's pool.", registry=REGISTRY)
TASKS_RUNNING = Gauge("peelbound_tasks_in_flight", "Tasks sent to workers and not answered yet.", registry=REGISTRY)
BUSY_SECONDS = Counter("peelbound_worker_busy_seconds", "Seconds that workers spent in tasks.", registry=REGISTRY)
HEARTBEATS_MISSED = Counter(
    "peelbound_heartbeats_missed", "Signs of life that did not reach the database.", registry=REGISTRY
)

CAUSES = (
    "database-unavailable",
    "infrastructure",
    "internal",
    "lease-lost",
    "object-corrupt",
    "object-missing",
    "out-of-memory",
    "ray-error",
    "ray-token-refused",
    "storage-full",
    "storage-unavailable",
    "worker-error",
    "worker-lost",
    "workers-differ",
    "workers-unavailable",
)
"""Slugs of what ends an attempt that is tried again; a test finds those that are missing."""

for _how in ("solved", "found"):  # a counter that is not there yet has no rate
    PROBLEMS.labels(_how)
for _cause in CAUSES:  # nor an increase when it first appears with 1
    RETRIES.labels(_cause)


@contextmanager
def served(settings: Settings) -> Iterator[None]:
    """Answer `GET /metrics` meanwhile, where the settings name a port.

    Raises:
        UserError: the address is taken or not this machine's (slug ``settings-invalid``).
    """
    port = settings.controller_metrics_port
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, settings.controller_metrics_host, REGISTRY)
    except OSError as error:
        raise UserError(
            f"Metrics cannot be served on {settings.controller_metrics_host} port {port}: {error.strerror or error}.",
            remedy="Set PEELBOUND_CONTROLLER_METRICS_PORT and PEELBOUND_CONTROLLER_METRICS_HOST, or leave them out.",
            slug="settings-invalid",
        ) from error
    log.info("metrics on http://%s:%d/metrics", *server.server_address[:2])
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
