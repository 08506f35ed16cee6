"""The heartbeats of a controller, on a database that fails and a clock that the test turns."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import event

from peelbound.service.controller.pulse import LeaseLost, Pulse, Stopping
from peelbound.service.database.leases import Claim, Lease, Leases
from peelbound.workers.errors import Cancelled
from tests.integration.database.harness import LEASE_SECONDS, MAX_ATTEMPTS, SUMMARY, Service
from tests.waiting import until


class Beating:
    """A pulse that beats when the test says so, and the seconds that it believes have passed."""

    def __init__(self, service: Service) -> None:
        self.now = 0.0
        self.stop = threading.Event()
        self.pulse = Pulse(service.leases, "one", self.stop, clock=lambda: self.now)


@pytest.fixture
def beating(service: Service) -> Beating:
    return Beating(service)


def test_heartbeats_keep_a_claim_however_long_it_takes(service: Service, beating: Beating) -> None:
    service.submit()
    beating.pulse.hold(service.claim())
    for _ in range(5):
        beating.now += LEASE_SECONDS
        beating.pulse.beat()
        beating.pulse.check()


def test_a_claim_whose_heartbeats_do_not_arrive_for_a_whole_lease_is_lost(service: Service, beating: Beating) -> None:
    service.submit()
    beating.pulse.hold(service.claim())
    beating.now += LEASE_SECONDS
    beating.pulse.check()
    beating.now += 1
    with pytest.raises(LeaseLost, match="31 s") as caught:
        beating.pulse.check()
    assert "database" in caught.value.remedy
    beating.pulse.hold(None)
    beating.pulse.check()


def test_it_tells_of_a_cancel_a_loss_and_a_stop(service: Service, beating: Beating) -> None:
    audit = service.submit()
    claim = service.claim()
    beating.pulse.hold(claim)
    service.audits.cancel("acme", audit)
    beating.pulse.beat()
    with pytest.raises(Cancelled):
        beating.pulse.check()
    service.leases.cancelled(claim)
    beating.pulse.beat()
    with pytest.raises(LeaseLost) as caught:
        beating.pulse.check()
    assert caught.value.remedy
    beating.pulse.hold(None)
    beating.stop.set()
    with pytest.raises(Stopping):
        beating.pulse.check()


class HeldUp(Leases):
    """Its first answer to a heartbeat arrives only when the next audit is in hand."""

    then: Callable[[], None] = staticmethod(lambda: None)

    def heartbeat(self, claim: Claim) -> Lease:
        state = super().heartbeat(claim)
        self.then()
        return state


def test_late_news_of_one_claim_does_not_land_on_the_next(service: Service) -> None:
    service.submit()
    service.submit()
    leases = HeldUp(service.engine, lease_seconds=LEASE_SECONDS, max_attempts=MAX_ATTEMPTS, clock=service.clock)
    pulse = Pulse(leases, "one", threading.Event(), clock=lambda: 0.0)
    ended = service.claim()
    pulse.hold(ended)
    assert service.leases.succeed(ended, "manifest", SUMMARY)
    following = service.claim()
    leases.then = lambda: pulse.hold(following)
    pulse.beat()
    pulse.check()


def test_a_heart_that_meets_the_unexpected_beats_on(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong inside a beat, the next one takes place and the claim is kept."""
    audit = service.submit()
    broken = threading.Event()

    @event.listens_for(service.engine, "before_cursor_execute")
    def fail(*_: object) -> None:
        if broken.is_set() and threading.current_thread().name == "pulse":
            raise ZeroDivisionError("unexpected")

    pulse = Pulse(service.leases, "one", threading.Event(), interval=0.01)
    pulse.start()
    try:
        pulse.hold(service.claim())
        broken.set()
        until(lambda: "ZeroDivisionError: unexpected" in caplog.text)
        broken.clear()
        service.audits.cancel("acme", audit)

        def is_cancelled() -> bool:
            try:
                pulse.check()
            except Cancelled:
                return True
            return False

        until(is_cancelled)
    finally:
        pulse.end()
