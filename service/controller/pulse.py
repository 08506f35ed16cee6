"""The sign of life: a thread that keeps the controller and its claim alive while the work goes on."""

import logging
import threading

from peelbound.service.database.errors import DatabaseUnavailable
from peelbound.service.database.leases import Claim, Lease, Leases
from peelbound.workers.errors import Cancelled, PeelboundError

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0


class LeaseLost(PeelboundError):
    """Another controller took the audit: whatever was done is to be discarded."""

    slug = "lease-lost"
    title = "The lease was lost"


class Stopping(PeelboundError):
    """The controller was told to stop: the audit is handed back."""

    slug = "controller-stopping"
    title = "The controller is stopping"


class Pulse:
    """Beats once a second, for the controller and for the claim that it holds."""

    def __init__(self, leases: Leases, owner: str, stop: threading.Event, interval: float = BEAT_SECONDS) -> None:
        """Bind; `start` begins to beat.

        Args:
            leases: the database.
            owner: this controller's name.
            stop: set when the controller is to end.
            interval: seconds between beats.
        """
        self._leases, self._owner, self._stop, self._interval = leases, owner, stop, interval
        self._claim: Claim | None = None
        self._state = Lease.HELD
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Beat for the first time, then go on in the background."""
        self._leases.beat(self._owner)
        self._thread.start()

    def end(self) -> None:
        """Stop beating."""
        self._ended.set()
        self._thread.join()

    def hold(self, claim: Claim | None) -> None:
        """Keep this claim alive from now on, or none."""
        self._state = Lease.HELD
        self._claim = claim

    def check(self) -> None:
        """Raise `LeaseLost`, `Cancelled` or `Stopping` when the work in hand should end."""
        if self._state is Lease.LOST:
            raise LeaseLost("Another controller holds the audit.")
        if self._state is Lease.CANCELLING:
            raise Cancelled("The audit was cancelled.")
        if self._stop.is_set():
            raise Stopping("The controller is stopping.")

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            claim = self._claim
            try:
                self._leases.beat(self._owner)
                state = Lease.HELD if claim is None else self._leases.heartbeat(claim)
            except DatabaseUnavailable as error:
                # Not a reason to stop: the lease may well outlive the outage, and publishing is fenced.
                log.warning("no heartbeat: %s", error)
                continue
            if claim is self._claim:
                self._state = state
