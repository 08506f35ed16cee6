"""Deadlines: by the database's clock, while an audit waits and while it is at work, whatever its controller thinks."""

import threading

import pytest
from sqlalchemy import Connection, select, text

from peelbound.service.controller.pulse import LeaseLost, Pulse
from peelbound.service.database.engine import writing
from peelbound.service.database.leases import Lease
from peelbound.service.database.tables import AuditRow
from peelbound.service.schemas.record import AuditState
from tests.integration.database.harness import PROBLEM, SUMMARY, Service, a_request
from tests.waiting import DEADLINE_SECONDS

TENANT = "acme"
TICK = threading.Event()


def overdue(service: Service, audit_id: str) -> None:
    """The audit has been failed for its deadline."""
    record = service.audits.get(TENANT, audit_id)
    assert record.state is AuditState.FAILED
    assert record.problem is not None
    assert record.problem.slug == "deadline-exceeded"
    assert record.problem.pointer == "/deadline_seconds"
    assert record.ended_at is not None
    assert service.leases.end_overdue() == 0


def test_an_audit_that_waits_too_long_is_failed_and_not_begun(service: Service) -> None:
    late, patient = service.submit(deadline_seconds=60), service.submit()
    service.clock.push(59)
    assert service.leases.end_overdue() == 0
    service.clock.push(2)
    assert service.claim().audit_id == patient  # the late one is passed over, also before anybody failed it
    assert service.leases.end_overdue() == 1
    overdue(service, late)
    assert "waiting" in service.audits.get(TENANT, late).problem.detail  # type: ignore[union-attr]
    assert service.leases.claim("two") is None


def test_an_audit_in_its_backoff_is_failed(service: Service) -> None:
    audit_id = service.submit(deadline_seconds=60)
    service.leases.retry(service.claim(), PROBLEM, 300)
    service.clock.push(61)
    assert service.leases.end_overdue() == 1
    overdue(service, audit_id)


def test_an_audit_at_work_is_failed_and_its_controller_told(service: Service) -> None:
    audit_id = service.submit(deadline_seconds=60)
    claim = service.claim()
    service.clock.push(20)
    assert service.leases.heartbeat(claim) is Lease.HELD
    service.clock.push(41)
    assert service.leases.end_overdue() == 1
    assert service.leases.heartbeat(claim) is Lease.LOST
    assert not service.leases.succeed(claim, "manifest", SUMMARY)
    assert not service.leases.fail(claim, PROBLEM)
    assert service.leases.retry(claim, PROBLEM, 1) is None
    overdue(service, audit_id)
    assert "at work (attempt 1)" in service.audits.get(TENANT, audit_id).problem.detail  # type: ignore[union-attr]


def test_a_frozen_controllers_audit_is_failed_by_another(service: Service) -> None:
    audit_id = service.submit(deadline_seconds=10)
    service.claim("frozen")
    service.clock.push(11)
    Pulse(service.leases, "another", threading.Event()).beat()
    overdue(service, audit_id)


def test_the_pulse_of_the_controller_itself_ends_the_work(service: Service) -> None:
    audit_id = service.submit(deadline_seconds=10)
    pulse = Pulse(service.leases, "one", threading.Event())
    pulse.hold(service.claim("one"))
    pulse.beat()
    pulse.check()
    service.clock.push(11)
    pulse.beat()  # fails it
    pulse.beat()  # learns of it
    with pytest.raises(LeaseLost):
        pulse.check()
    overdue(service, audit_id)


def test_a_result_that_comes_too_late_is_not_published(service: Service) -> None:
    late = service.submit(deadline_seconds=20)
    claim = service.claim()
    service.clock.push(21)
    assert not service.leases.succeed(claim, "manifest", SUMMARY)
    overdue(service, late)
    assert service.audits.manifest_key(TENANT, late) is None


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("seconds", [(21, 0), (19, 2)], ids=["before", "meanwhile"])
def test_a_result_that_comes_too_late_is_not_published_though_its_row_is_locked(
    service: Service, seconds: tuple[int, int]
) -> None:
    """A heartbeat, say, holds the row while the result is handed in; the deadline passes before that or meanwhile."""
    late = service.submit(deadline_seconds=20)
    claim = service.claim()
    published: list[bool] = []
    handing_in = threading.Thread(target=lambda: published.append(service.leases.succeed(claim, "manifest", SUMMARY)))
    service.clock.push(seconds[0])
    with writing(service.engine) as connection:
        connection.execute(select(AuditRow.id).with_for_update())
        handing_in.start()
        until_blocked_by(connection)
        service.clock.push(seconds[1])
    handing_in.join(DEADLINE_SECONDS)
    assert published == [False]
    overdue(service, late)
    assert service.audits.manifest_key(TENANT, late) is None


def until_blocked_by(connection: Connection) -> None:
    """Wait until another transaction waits for this one's locks (PostgreSQL)."""
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    while not connection.scalar(text(waits)):
        TICK.wait(0.01)


def test_what_ends_in_time_stays_as_it_ended(service: Service) -> None:
    succeeded = service.submit(deadline_seconds=60)
    assert service.leases.succeed(service.claim(), "manifest", SUMMARY)
    cancelling = service.submit(deadline_seconds=60)
    claim = service.claim()
    service.audits.cancel(TENANT, cancelling)
    service.clock.push(61)
    assert service.leases.end_overdue() == 0
    assert service.leases.cancelled(claim)
    abandoned = service.submit(deadline_seconds=60)
    service.claim()
    service.audits.cancel(TENANT, abandoned)
    service.clock.push(61)
    assert service.leases.claim("two") is None
    states = [service.audits.get(TENANT, audit).state for audit in (succeeded, cancelling, abandoned)]
    assert states == [AuditState.SUCCEEDED, AuditState.CANCELLED, AuditState.CANCELLED]


def test_a_deadline_is_no_part_of_a_results_identity() -> None:
    assert a_request(deadline_seconds=5).identity() == a_request().identity()


@pytest.mark.parametrize("seconds", [0, 0.5, -1, 31 * 24 * 3600, float("inf"), float("nan")])
def test_a_deadline_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="deadline_seconds"):
        a_request(deadline_seconds=seconds)
