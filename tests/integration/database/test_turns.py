"""Whose audit is claimed next: few at work first, then who waits longest for a turn, then priority and age; limits hold
however many claim at once."""

from collections.abc import Iterator

import pytest
from sqlalchemy import insert, select, text

from peelbound.service.database.engine import writing
from peelbound.service.database.errors import DatabaseUnavailable
from peelbound.service.database.leases import Claim, Lease, Leases
from peelbound.service.database.tables import AuditRow, RequestRow
from peelbound.service.database.turns import take_turn
from peelbound.service.schemas.record import AuditState
from tests.integration.database.harness import LEASE_SECONDS, MAX_ATTEMPTS, PROBLEM, Service, a_request, at_once


def limited(service: Service, limit: int) -> Leases:
    return Leases(
        service.engine,
        lease_seconds=LEASE_SECONDS,
        max_attempts=MAX_ATTEMPTS,
        tenant_running=limit,
        clock=service.clock,
    )


def test_a_tenant_with_many_waiting_audits_does_not_hold_up_another(service: Service) -> None:
    many = [service.submit("many") for _ in range(4)]
    few = service.submit("few", priority=-100)
    assert [service.claim().audit_id for _ in range(3)] == [many[0], few, many[1]]


def test_a_tenant_whose_audits_have_ended_comes_first_again(service: Service) -> None:
    for tenant in ("one", "one", "other", "other"):
        service.submit(tenant)
    first, second = service.claim(), service.claim()
    assert (first.tenant, second.tenant) == ("one", "other")
    service.leases.fail(second, PROBLEM)
    assert service.claim().tenant == "other"


def test_an_audit_whose_controller_is_lost_is_not_at_work(service: Service) -> None:
    lost = service.submit("lost")
    service.claim("gone")
    served_alone(service, "other")
    service.expire()
    service.submit("other")
    assert service.claim().audit_id == lost


def served_alone(service: Service, *tenants: str) -> None:
    """Each tenant had a turn, in this order, and has nothing left."""
    for tenant in tenants:
        service.submit(tenant)
        claim = service.claim()
        assert claim.tenant == tenant
        service.leases.fail(claim, PROBLEM)


def one_after_another(service: Service) -> Iterator[str]:
    """The tenants that a single controller serves until nothing waits."""
    while claim := service.leases.claim("alone"):
        service.leases.fail(claim, PROBLEM)
        yield claim.tenant


def test_tenants_take_turns_at_a_single_controller(service: Service) -> None:
    """It never sees anybody at work, and would serve everything that came before."""
    for _ in range(5):
        service.submit("many")
    for _ in range(2):
        service.submit("few")
    assert list(one_after_another(service)) == ["many", "few", "many", "few", "many", "many", "many"]


def test_a_high_priority_passes_no_tenant_whose_turn_it_is(service: Service) -> None:
    served_alone(service, "loud", "quiet")
    for _ in range(3):
        service.submit("loud", priority=100)
    service.submit("quiet", priority=-100)
    assert list(one_after_another(service)) == ["loud", "quiet", "loud", "loud"]


def test_whoever_never_had_a_turn_comes_first_and_among_such_the_priority(service: Service) -> None:
    served_alone(service, "served")
    for tenant, priority in (("served", 7), ("new", 0), ("newer", 5)):
        service.submit(tenant, priority=priority)
    assert list(one_after_another(service)) == ["newer", "new", "served"]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_audits_that_others_have_locked_are_passed_over(service: Service) -> None:
    locked, free = service.submit(), service.submit()
    with writing(service.engine) as connection:
        connection.execute(select(AuditRow.id).where(AuditRow.id == locked).with_for_update())
        assert service.claim().audit_id == free
        assert service.leases.claim("one") is None
    assert service.claim().audit_id == locked


def test_the_higher_priority_comes_first_then_the_older_audit(service: Service) -> None:
    low, usual, high, later = (service.submit(priority=p) for p in (-1, 0, 7, 7))
    assert [service.claim().audit_id for _ in range(4)] == [high, later, usual, low]


def test_priority_is_no_part_of_what_is_asked_for() -> None:
    assert a_request(priority=5).identity() == a_request().identity()


class TestLimit:
    def test_further_audits_wait_and_others_pass_them(self, service: Service) -> None:
        leases = limited(service, 1)
        service.submit("full")
        waiting = service.submit("full", priority=100)
        other = service.submit("other")
        held = leases.claim("one")
        assert held is not None
        assert held.audit_id == waiting
        passed = leases.claim("two")
        assert passed is not None
        assert passed.audit_id == other
        assert leases.claim("three") is None
        leases.fail(held, PROBLEM)
        assert leases.claim("three") is not None

    def test_what_waits_for_its_tenants_turn_is_not_the_queues_age(self, service: Service) -> None:
        leases = limited(service, 1)
        service.submit("full")
        service.submit("full")
        held = leases.claim("one")
        assert held is not None
        service.clock.push(LEASE_SECONDS / 2)
        assert leases.heartbeat(held) is Lease.HELD
        assert leases.health().oldest_claimable_seconds is None
        assert service.leases.health().oldest_claimable_seconds is not None  # without a limit
        service.submit("other")
        service.clock.push(5)
        waited = leases.health().oldest_claimable_seconds
        assert waited is not None
        assert 5 <= waited < LEASE_SECONDS / 2
        leases.fail(held, PROBLEM)
        waited = leases.health().oldest_claimable_seconds
        assert waited is not None
        assert waited >= LEASE_SECONDS / 2

    def test_a_look_that_finds_nothing_to_take_needs_no_turn(self, service: Service) -> None:
        """Idle controllers look all the time, and would hold up whoever claims, or wait for it."""
        leases = limited(service, 1)
        held = [service.submit(tenant) for tenant in ("one", "other")]
        assert [leases.claim(owner) is not None for owner in "ab"] == [True, True]
        for tenant in ("one", "other", "other"):
            service.submit(tenant)
        service.audits.cancel("one", held[0])
        with writing(service.engine) as connection:  # on SQLite this alone keeps every other writer out
            take_turn(connection)
            assert leases.claim("idle") is None
        service.expire()
        assert leases.claim("busy") is not None

    def test_it_holds_though_all_claim_at_once(self, service: Service) -> None:
        for _ in range(8):
            service.submit("one")
            service.submit("other")

        def claim_all(owner: str) -> list[Claim]:
            claimed, leases = [], limited(service, 2)
            while claim := leases.claim(owner):
                claimed.append(claim)
            return claimed

        claims = [c for some in at_once(*[lambda o=f"c{n}": claim_all(o) for n in range(4)]) for c in some]
        assert sorted(c.tenant for c in claims) == ["one", "one", "other", "other"]

    def test_an_abandoned_audit_that_is_to_be_cancelled_ends_though_the_tenant_is_full(self, service: Service) -> None:
        leases = limited(service, 1)
        gone = service.submit()
        assert leases.claim("gone") is not None
        service.audits.cancel("acme", gone)
        service.expire()
        service.submit(priority=1)
        assert leases.claim("one") is not None
        assert leases.claim("two") is None
        assert service.audits.get("acme", gone).state is AuditState.CANCELLED


def test_ten_thousand_queued_audits_are_claimed_in_turn(service: Service) -> None:
    """Written past `submit`, which takes a transaction for each."""
    body = a_request()
    with writing(service.engine) as connection:
        now = service.clock(connection)
        row = {
            "state": AuditState.QUEUED,
            "attempt": 0,
            "failures": 0,
            "event_count": 0,
            "claimable_at": now,
            "created_at": now,
            "checkpoint": body.checkpoint,
            "request_bytes": 100,
        }
        keys = [("big" if n % 100 else "small", f"{n:026}") for n in range(10_000)]
        connection.execute(insert(AuditRow), [row | {"tenant": t, "id": i, "priority": int(i) % 3} for t, i in keys])
        connection.execute(insert(RequestRow), [{"tenant": t, "audit_id": i, "body": body} for t, i in keys])
    claims = [service.claim() for _ in range(50)]
    assert [c.tenant for c in claims].count("small") == 25
    for tenant in ("big", "small"):
        ids = [int(c.audit_id) for c in claims if c.tenant == tenant]
        assert ids == sorted(n for n in range(10_000) if (n % 100 == 0) is (tenant == "small") and n % 3 == 2)[:25]
    assert all(service.leases.heartbeat(claim) is Lease.HELD for claim in claims)
    assert service.leases.at_work() == {"big": 25, "small": 25}


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_a_claimer_that_is_stopped_in_its_turn_loses_it(service: Service) -> None:
    """A frozen process keeps its transaction, and with it everybody's turn, until PostgreSQL ends it."""
    audit = service.submit()

    def stopped() -> None:
        with writing(service.engine) as connection:
            assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "15s"
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '300ms'"))
            take_turn(connection)
            assert service.claim().audit_id == audit  # waits for its turn, in a transaction of its own
            connection.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable, match="idle-in-transaction"):
        stopped()
