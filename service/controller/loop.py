"""The controller's loop: claim an audit, carry it out, hand in what came of it.

Whatever happens, the database says what is so: a result counts when `publish` succeeded, a failure when it is recorded,
and an audit whose controller disappears is taken up by another once its lease has run out.
"""

import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress

import ray
from ray.exceptions import RayError
from sqlalchemy import Engine
from ulid import ULID

from peelbound.service.controller import metrics
from peelbound.service.controller.audit import Audit, Outcome
from peelbound.service.controller.cluster import RayFailed, capacity, fair_share, own_workers, room_now
from peelbound.service.controller.meter import Furthest
from peelbound.service.controller.pool import Pool, start_pool
from peelbound.service.controller.publish import publish
from peelbound.service.controller.pulse import LeaseLost, Pulse, Stopping
from peelbound.service.controller.ray_failures import typed
from peelbound.service.database.errors import DatabaseUnavailable
from peelbound.service.database.leases import Claim, Leases
from peelbound.service.database.retention import Retention
from peelbound.service.logs import log_context
from peelbound.service.problems import as_problem
from peelbound.service.retention.uses import Uses
from peelbound.service.schemas.record import Progress
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.tracing import span
from peelbound.workers.errors import Cancelled, InfrastructureError, PeelboundError, UserError, WorkerLost
from peelbound.workers.panics import panics_caught

log = logging.getLogger(__name__)

WORKER_LOSSES = 2
"""Lost workers that one attempt replaces without having solved anything in between; what was solved stays solved."""

LONGEST_POLL_SECONDS = 1.0
"""How long an idle controller waits at most before it looks for work again."""
_LONGER = 1.25

SHARED_IDLE_SECONDS = 5.0
"""How long an idle controller keeps its workers while other audits could use them."""


def pauses(poll_seconds: float) -> Iterator[float]:
    """Seconds between the looks of a controller that finds no work: short at first, as work often comes in series."""
    pause = poll_seconds
    while True:
        yield pause
        pause = max(pause, min(_LONGER * pause, LONGEST_POLL_SECONDS))


class Controller:
    """Carries out one audit after another until told to stop."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        store: ObjectStore,
        stop: threading.Event,
        start_pool: Callable[[Settings, ObjectStore, Callable[[], None]], Pool] = start_pool,
    ) -> None:
        """Bind to database and store.

        Args:
            settings: the service's.
            engine: of the migrated database.
            store: object storage.
            stop: ends the loop; the audit in hand is handed back.
            start_pool: starts Ray and a pool on it.
        """
        self.settings, self.store, self.stop = settings, store, stop
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{ULID()}"
        self.leases = Leases(
            engine,
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            tenant_running=settings.tenant_running_audits,
        )
        self.retention = Retention(engine)
        self.pulse = Pulse(self.leases, self.owner, stop)
        self._new_pool = start_pool
        self._pool: Pool | None = None

    def run(self) -> None:
        """Work until `stop` is set."""
        self.pulse.start()
        try:
            self._start_pool()
            workers = self.settings.workers
            if self.settings.ray_address is None:
                workers = own_workers(self.settings)
                if workers < self.settings.workers:
                    log.warning("%d workers were asked for; there are cores for %d", self.settings.workers, workers)
            log.info("controller %s: ready, %d workers", self.owner, workers)
            idle_since, idle = time.monotonic(), pauses(self.settings.poll_seconds)
            while not self.stop.is_set():
                if self._worked():
                    idle_since, idle = time.monotonic(), pauses(self.settings.poll_seconds)
                    continue
                self._rest(time.monotonic() - idle_since)
                self.stop.wait(next(idle))
        finally:
            self.pulse.end()
            self._stop_ray()

    def _worked(self) -> bool:
        """Claim an audit and carry it out, if there is one; whether there was."""
        claim = None
        try:
            claim = self.leases.claim(self.owner)
            if claim is not None:
                self._hold(claim)
        except DatabaseUnavailable as error:
            log.warning("the database does not answer, trying again: %s", error)
        return claim is not None

    def _start_pool(self) -> Pool:
        if self._pool is None:
            self.pulse.check()  # it may have been told to stop while it imported Ray
            self._pool = self._new_pool(self.settings, self.store, self.pulse.check)
        return self._pool

    def _rest(self, idle_seconds: float) -> None:
        """Give the workers back, and those that still wait for room, when they have not been needed for long."""
        if self._pool is None or not self._pool.asked_for:
            return
        patience = self.settings.worker_idle_seconds
        if self.settings.ray_address and patience > SHARED_IDLE_SECONDS < idle_seconds and self._others_at_work():
            patience = SHARED_IDLE_SECONDS
        if idle_seconds > patience:
            log.info("idle for %.0f s: %d workers given back", idle_seconds, self._pool.asked_for)
            self._pool.release()

    def _others_at_work(self) -> bool:
        """Whether an audit is at work somewhere; while the database is away there may be one, and none comes here."""
        with suppress(DatabaseUnavailable):
            return bool(self.leases.at_work())
        return True

    def _allowed(self, tenant: str) -> Callable[[], int]:
        """How many workers an audit of this tenant may have now; while the database is away, as many as before."""
        settings, known = self.settings, dict[str, int]()

        def allowed() -> int:
            nonlocal known
            if settings.ray_address is None:
                return own_workers(settings)
            with suppress(DatabaseUnavailable):
                known = self.leases.at_work()
            return fair_share(capacity(settings), known, tenant, settings.workers)

        return allowed

    def _crowded(self, claim: Claim) -> Callable[[], bool]:
        """Whether others may have what this audit waits for.

        Then there must be something to have, and somebody who has it: two that wait would wait for each other.
        """

        def crowded() -> bool:
            if room_now(self.settings) == 0:
                return False
            with suppress(DatabaseUnavailable):
                return self.leases.others_have_workers(claim)
            return True

        return crowded

    def _stop_ray(self) -> None:
        if self._pool is not None:
            self._pool.close()
        ray.shutdown()
        self._pool = None

    def _hold(self, claim: Claim) -> None:
        known: dict[str, str | int] = {"audit_id": claim.audit_id, "attempt": claim.attempt}
        origin = {} if claim.request_id is None else {"request_id": claim.request_id}
        attributes = {f"peelbound.{name}": value for name, value in (known | origin).items()}
        with (
            log_context(**known, **origin),
            span("attempt", parent=claim.traceparent, attributes=attributes) as current,
        ):
            outcome = self._held(claim)
            if current is not None:
                current.set_attribute("peelbound.outcome", outcome)

    def _held(self, claim: Claim) -> str:
        log.info("audit %s attempt %d: begun", claim.audit_id, claim.attempt)
        if claim.taken_over:
            metrics.RETRIES.labels("lease-lost").inc()
        self.pulse.hold(claim)
        try:
            with metrics.ATTEMPTS_RUNNING.track_inprogress(), metrics.ATTEMPT_SECONDS.time():
                outcome = self._attempt(claim)
            metrics.ATTEMPTS.labels(outcome).inc()
            return outcome
        finally:
            self.pulse.hold(None)

    def _attempt(self, claim: Claim) -> str:
        """Carry the audit out and hand in what came of it; how the attempt ended, for the metrics."""
        try:
            uses = Uses(self.retention, claim.tenant)
            with panics_caught():
                outcome = self._carry_out(claim, uses)
            published = publish(outcome, claim, self.leases, self.store, uses.names())
            log.info(
                "audit %s attempt %d: %s", claim.audit_id, claim.attempt, "published" if published else "discarded"
            )
            return "published" if published else "discarded"
        except LeaseLost:
            log.warning("audit %s attempt %d: lease lost, discarded", claim.audit_id, claim.attempt)
            return "lease_lost"
        except Cancelled:
            self.leases.cancelled(claim)
            log.info("audit %s: cancelled", claim.audit_id)
            return "cancelled"
        except Stopping:
            self.leases.hand_back(claim)
            log.info("audit %s: handed back", claim.audit_id)
            return "handed_back"
        except UserError as error:
            self.leases.fail(claim, as_problem(error))
            log.info("audit %s: failed: %s", claim.audit_id, error)
            return "failed"
        except (WorkerLost, RayFailed) as error:
            self._stop_ray()  # the next attempt gets a fresh one
            self._retry(claim, error)
        except PeelboundError as error:
            self._retry(claim, error)
        except Exception as error:  # a fault of ours in one audit must not end the others; it is logged whole
            log.exception("audit %s: internal error", claim.audit_id)
            where = traceback.extract_tb(error.__traceback__)[-1]
            cause = f"{type(error).__name__} in {where.name}, line {where.lineno}: {error}"
            self._retry(
                claim, InfrastructureError(cause, slug="internal", remedy="Report it with the controller's log.")
            )
        return "retried"

    def _retry(self, claim: Claim, error: PeelboundError) -> None:
        metrics.RETRIES.labels(error.slug).inc()
        state = self.leases.retry(claim, as_problem(error), self.settings.retry_seconds)
        log.warning("audit %s attempt %d: %s; now %s", claim.audit_id, claim.attempt, error, state)

    def _carry_out(self, claim: Claim, uses: Uses) -> Outcome:
        def report(progress: Progress) -> None:
            self.pulse.check()
            try:
                self.leases.progress(claim, progress)
            except DatabaseUnavailable as error:  # progress is for people; the work goes on without
                log.warning("progress not recorded: %s", error)

        furthest = Furthest(report)
        losses = solved = 0
        while True:
            pool = self._start_pool()
            pool.allowed = self._allowed(claim.tenant)
            pool.crowded = self._crowded(claim)
            try:
                return Audit(claim.request, claim.tenant, self.settings, self.store, pool, furthest, uses).run()
            except WorkerLost as error:
                metrics.WORKERS_REPLACED.inc()
                pool.salvage()
                losses = 1 if pool.solved > solved else losses + 1
                solved = pool.solved
                log.warning("audit %s: %s (%d)", claim.audit_id, error, losses)
                if losses > WORKER_LOSSES:
                    raise
            except RayError as error:
                raise typed(error, "the audit") from error
            finally:
                self._abandon(pool)

    def _abandon(self, pool: Pool) -> None:
        try:
            pool.abandon()
        except Exception:  # a Ray that is gone raises all sorts; none may hide what ended the audit
            log.warning("tasks could not be stopped, starting Ray afresh", exc_info=True)
            self._stop_ray()
