"""A tenant's audits, results and collections on a real database and a real store, by a clock that the test pushes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Engine

from peelbound.service.database.leases import Claim
from peelbound.service.database.retention import Condemned, Retention
from peelbound.service.database.tenants import Tenants
from peelbound.service.retention.collector import Collector
from peelbound.service.retention.erasing import erase
from peelbound.service.retention.uses import Uses, keep_list, objects_of
from peelbound.service.storage.base import ObjectStore
from tests.integration.database.harness import SUMMARY, Service
from tests.waiting import DEADLINE_SECONDS

GRACE = timedelta(hours=1)


@dataclass
class Attempt:
    """An attempt as a controller makes one: what it uses it announces, looks for, and makes where it is absent."""

    storage: "Storage"
    claim: Claim
    uses: Uses | None = None
    made: list[str] = field(default_factory=list)
    """The results that it had to make."""

    def begin(self) -> "Attempt":
        """Learn what is condemned."""
        self.uses = Uses(self.storage.retention, self.claim.tenant)
        return self

    def use(self, name: str) -> None:
        """Find a result, or make it."""
        assert self.uses is not None
        key = self.storage.key(name)
        self.uses(key)
        if not self.storage.has(name):
            self.made.append(name)
            for part in reversed(objects_of(key)):
                self.storage.store.put(part, name.encode())

    def publish(self) -> None:
        """Succeed, as `publish` in the controller does."""
        assert self.uses is not None
        folder = f"tenants/{self.claim.tenant}/audits/{self.claim.audit_id}/{self.claim.attempt}"
        self.storage.store.put(f"{folder}/report.json", b"{}")
        keep_list(self.storage.store, folder, self.uses.names())
        self.storage.store.put(f"{folder}/manifest.json", b"{}")
        assert self.storage.service.leases.succeed(self.claim, f"{folder}/manifest.json", SUMMARY)


@dataclass
class Storage:
    """One tenant's."""

    engine: Engine
    store: ObjectStore
    tenant: str = "acme"
    keep_seconds: float | None = None

    def __post_init__(self) -> None:
        self.service = Service(self.engine)
        self.retention = Retention(self.engine, clock=self.service.clock)
        self.collector = self.collector_on(self.retention)

    def collector_on(self, retention: Retention) -> Collector:
        audits, tenants = self.service.audits, Tenants(self.engine, clock=self.service.clock)
        return Collector(retention, audits, tenants, self.store, keep_seconds=self.keep_seconds, grace=GRACE)

    def collect(self) -> tuple[int, int]:
        """Collect; how many results were condemned, and how many deleted."""
        collected = self.collector.collect(self.tenant)
        return collected.results_condemned, collected.results_deleted

    def key(self, name: str) -> str:
        return f"tenants/{self.tenant}/results/kind/{name}"

    def has(self, name: str) -> bool:
        """Whether a result is there, whole."""
        return all(self.store.info(key) is not None for key in objects_of(self.key(name)))

    def claimed(self) -> Attempt:
        """An audit, submitted and claimed."""
        self.service.submit(self.tenant)
        return Attempt(self, self.service.claim())

    def audit(self, *names: str) -> Attempt:
        """An audit that uses these results and succeeds."""
        attempt = self.claimed().begin()
        for name in names:
            attempt.use(name)
        attempt.publish()
        return attempt

    def delete(self, attempt: Attempt) -> None:
        """Delete an audit that has ended, as the API does."""
        erase(self.service.audits, self.store, self.tenant, attempt.claim.audit_id, by=None)

    def later(self) -> None:
        """Past the grace."""
        self.service.clock.push(GRACE.total_seconds() + 1)


class Puppet:
    """Work in a thread that stands still at each of its pauses until the test lets it go on to the next."""

    def __init__(self, work: Callable[[Callable[[], None]], None]) -> None:
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self.finished = False
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Callable[[], None]], None]) -> None:
        self._go.acquire()
        try:
            work(self._pause)
        except BaseException as error:  # raised again in the test's own thread
            self._error = error
        self.finished = True
        self._stands.release()

    def _pause(self) -> None:
        self._stands.release()
        assert self._go.acquire(timeout=DEADLINE_SECONDS)

    def step(self) -> None:
        """Go on to the next pause, or to the end."""
        if self.finished:
            return
        self._go.release()
        assert self._stands.acquire(timeout=DEADLINE_SECONDS)
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Go on to the end."""
        while not self.finished:
            self.step()


class Paused(Retention):
    """A database before each of whose answers to a collection the test may do something."""

    def __init__(self, storage: Storage, pause: Callable[[], None]) -> None:
        super().__init__(storage.engine, clock=storage.service.clock)
        self._wait = pause

    def condemn(self, tenant: str, names: "set[str]") -> None:  # type: ignore[override]
        self._wait()
        super().condemn(tenant, names)

    def stamp(self, tenant: str) -> None:
        self._wait()
        super().stamp(tenant)

    def due(self, tenant: str, grace: timedelta) -> list[Condemned]:
        self._wait()
        return super().due(tenant, grace)

    def published(self, tenant: str) -> list[str]:
        self._wait()
        return super().published(tenant)

    @contextmanager
    def deleting(self, tenant: str, condemned: Condemned) -> Iterator[bool]:
        self._wait()
        with super().deleting(tenant, condemned) as held:
            yield held
