"""The sign of life: a thread that keeps the controller and its claim alive while the work goes on."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from peelbound.service.controller import metrics
from peelbound.service.database.errors import DatabaseUnavailable
from peelbound.service.database.leases import Claim, Lease, Leases
from peelbound.workers.errors import Cancelled, PeelboundError

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0


class LeaseLost(PeelboundError):
    """Another controller took the audit, or may have: whatever was done is to be discarded."""

    slug = "lease-lost"
    title = "The lease was lost"


class Stopping(PeelboundError):
    """The controller was told to stop: the audit is handed back."""

    slug = "controller-stopping"
    title = "The controller is stopping"


@dataclass(eq=False)
class _Held:
    """A claim and what is known of it, in one object: late news of one claim cannot land on the next."""

    claim: Claim
    renewed: float
    """When the last heartbeat that succeeded was sent; the lease lasts from then on at least."""
    state: Lease = Lease.HELD


class Pulse:
    """Beats once a second, for the controller and for the claim that it holds."""

    def __init__(
        self,
        leases: Leases,
        owner: str,
        stop: threading.Event,
        interval: float = BEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bind; `start` begins to beat.

        Args:
            leases: the database.
            owner: this controller's name.
            stop: set when the controller is to end.
            interval: seconds between beats.
            clock: seconds.
        """
        self._leases, self._owner, self._stop, self._interval, self._clock = leases, owner, stop, interval, clock
        self._held: _Held | None = None
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
        self._held = None if claim is None else _Held(claim, self._clock())

    def check(self) -> None:
        """Raise `LeaseLost`, `Cancelled` or `Stopping` when the work in hand should end.

        A lease that no heartbeat has renewed for as long as it lasts is lost too, whatever kept the heartbeats from
        arriving: another controller may have the audit by now.
        """
        held = self._held
        if held is not None:
            remedy = "Nothing needs to be done: the audit goes on from what is solved, here or on another controller."
            if held.state is Lease.LOST:
                raise LeaseLost("Another controller holds the audit, or it has ended.", remedy=remedy)
            silent = self._clock() - held.renewed
            if silent > self._leases.lease_seconds:
                raise LeaseLost(
                    f"No heartbeat has reached the database for {silent:.0f} s, and the lease lasts "
                    f"{self._leases.lease_seconds:g} s.",
                    remedy=f"{remedy} See that the database can be reached from the controller.",
                )
            if held.state is Lease.CANCELLING:
                raise Cancelled("The audit was cancelled.")
        if self._stop.is_set():
            raise Stopping("The controller is stopping.")

    def beat(self) -> None:
        """One sign of life; what the database says of the claim is what `check` goes by."""
        held, sent = self._held, self._clock()
        self._leases.beat(self._owner)
        if held is not None:
            held.state = self._leases.heartbeat(held.claim)
            held.renewed = sent
        self._leases.end_overdue()

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self.beat()
            except DatabaseUnavailable as error:
                metrics.HEARTBEATS_MISSED.inc()
                # Not a reason to stop at once: the lease may well outlive the outage, and publishing is fenced.
                log.warning("no heartbeat: %s", error)
            except Exception:  # a thread that ended unheard would let every audit's lease run out from here on
                metrics.HEARTBEATS_MISSED.inc()
                log.exception("no heartbeat, for a reason that was not expected")
