"""What controllers rely on: claims, fences, recovery, and that nothing runs twice."""

import math
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, update

from peelbound.service.database.engine import reading, writing
from peelbound.service.database.leases import Lease
from peelbound.service.database.tables import AuditRow
from peelbound.service.schemas.record import AuditState
from tests.integration.database.harness import (
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    PROBLEM,
    SUMMARY,
    Service,
    a_request,
    at_once,
    some_progress,
)


def test_a_claim_is_the_oldest_audit_and_nobody_elses(service: Service) -> None:
    first = service.submit(seed=7)
    second = service.submit("other")
    one, two = service.claim("one"), service.claim("two")
    assert (one.audit_id, one.tenant, one.attempt, one.owner) == (first, "acme", 1, "one")
    assert one.request == a_request(seed=7)
    assert (two.audit_id, two.tenant) == (second, "other")
    assert service.leases.claim("three") is None
    record = service.audits.get("acme", first)
    assert (record.state, record.attempt) == (AuditState.RUNNING, 1)
    assert record.started_at is not None


def test_the_oldest_audit_comes_first_also_after_a_retry(service: Service) -> None:
    first, second = service.submit(), service.submit()
    service.leases.retry(service.claim(), PROBLEM, delay_seconds=10)
    assert service.claim().audit_id == second
    third = service.submit()
    service.clock.push(10)
    assert [service.claim().audit_id, service.claim().audit_id] == [first, third]


def test_claimers_at_once_never_get_the_same_audit(service: Service) -> None:
    audits = {service.submit() for _ in range(12)}

    def claim_all(owner: str) -> list[str]:
        claimed = []
        while claim := service.leases.claim(owner):
            claimed.append(claim.audit_id)
        return claimed

    claimed = at_once(*[lambda owner=f"controller-{n}": claim_all(owner) for n in range(4)])
    ids = [audit for some in claimed for audit in some]
    assert sorted(ids) == sorted(audits)
    assert all(service.audits.get("acme", audit).attempt == 1 for audit in audits)


def test_claimers_at_once_never_take_over_the_same_lost_audit(service: Service) -> None:
    audit = service.submit()
    service.claim("lost")
    service.expire()
    claims = at_once(*[lambda owner=f"controller-{n}": service.leases.claim(owner) for n in range(4)])
    taken = [claim for claim in claims if claim is not None]
    assert [(claim.audit_id, claim.attempt) for claim in taken] == [(audit, 2)]


class TestHeartbeat:
    def test_it_keeps_the_audit(self, service: Service) -> None:
        service.submit()
        claim = service.claim()
        for _ in range(3):
            service.clock.push(LEASE_SECONDS * 0.8)
            assert service.leases.heartbeat(claim) is Lease.HELD
            assert service.leases.claim("two") is None

    def test_late_but_not_taken_over_the_audit_is_still_held(self, service: Service) -> None:
        service.submit()
        claim = service.claim()
        service.expire()
        assert service.leases.heartbeat(claim) is Lease.HELD
        assert service.leases.claim("two") is None

    def test_it_tells_of_a_cancel_and_of_the_end(self, service: Service) -> None:
        audit = service.submit()
        claim = service.claim()
        service.audits.cancel("acme", audit)
        assert service.leases.heartbeat(claim) is Lease.CANCELLING
        assert service.leases.cancelled(claim)
        assert service.leases.heartbeat(claim) is Lease.LOST


class TestZombie:
    def test_taken_over_it_can_do_nothing_at_all(self, service: Service) -> None:
        audit = service.submit()
        zombie = service.claim("one")
        service.expire()
        heir = service.claim("two")
        assert (heir.audit_id, heir.attempt) == (audit, 2)
        record, events = service.audits.get("acme", audit), service.events(audit)
        assert service.leases.heartbeat(zombie) is Lease.LOST
        assert not service.leases.progress(zombie, some_progress())
        assert not service.leases.succeed(zombie, "zombie", SUMMARY)
        assert not service.leases.fail(zombie, PROBLEM)
        assert service.leases.retry(zombie, PROBLEM, 0) is None
        assert not service.leases.cancelled(zombie)
        assert not service.leases.hand_back(zombie)
        assert service.audits.get("acme", audit) == record
        assert service.events(audit) == events
        assert service.leases.succeed(heir, "heir", SUMMARY)
        assert service.audits.manifest_key("acme", audit) == "heir"

    def test_its_own_restart_under_the_same_name_is_fenced_too(self, service: Service) -> None:
        service.submit()
        before = service.claim("one")
        service.expire()
        after = service.claim("one")
        assert not service.leases.succeed(before, "before", SUMMARY)
        assert service.leases.succeed(after, "after", SUMMARY)

    def test_after_the_heirs_success_it_can_not_publish(self, service: Service) -> None:
        audit = service.submit()
        zombie = service.claim("one")
        service.expire()
        service.leases.succeed(service.claim("two"), "heir", SUMMARY)
        assert not service.leases.succeed(zombie, "heir", SUMMARY)
        service.audits.delete("acme", audit)
        assert not service.leases.succeed(zombie, "zombie", SUMMARY)


class TestEnd:
    def test_success_publishes_and_repeating_it_after_a_doubtful_commit_agrees(self, service: Service) -> None:
        audit = service.submit()
        claim = service.claim()
        service.leases.retry(claim, PROBLEM, 0)
        claim = service.claim()
        assert service.leases.succeed(claim, "manifest", SUMMARY)
        assert service.leases.succeed(claim, "manifest", SUMMARY)
        assert not service.leases.succeed(claim, "another", SUMMARY)
        record = service.audits.get("acme", audit)
        assert (record.state, record.summary, record.problem) == (AuditState.SUCCEEDED, SUMMARY, None)
        assert record.ended_at is not None
        assert service.events(audit)[-2:] == [("state", "running"), ("state", "succeeded")]
        service.expire()
        assert service.leases.claim("two") is None

    def test_failure_keeps_the_cause(self, service: Service) -> None:
        audit = service.submit()
        assert service.leases.fail(service.claim(), PROBLEM)
        record = service.audits.get("acme", audit)
        assert (record.state, record.problem) == (AuditState.FAILED, PROBLEM)
        last = service.audits.events("acme", audit)[-1]
        assert last.data["problem"]["detail"] == PROBLEM.detail

    @pytest.mark.parametrize("end", ["succeed", "fail", "retry", "cancelled", "hand_back"])
    def test_a_cancel_wins_over_every_end(self, service: Service, end: str) -> None:
        audit = service.submit()
        claim = service.claim()
        service.audits.cancel("acme", audit)
        ends = {
            "succeed": lambda: service.leases.succeed(claim, "manifest", SUMMARY) is False,
            "fail": lambda: service.leases.fail(claim, PROBLEM),
            "retry": lambda: service.leases.retry(claim, PROBLEM, 0) is AuditState.CANCELLED,
            "cancelled": lambda: service.leases.cancelled(claim),
            "hand_back": lambda: service.leases.hand_back(claim),
        }
        assert ends[end]()
        record = service.audits.get("acme", audit)
        assert (record.state, record.summary) == (AuditState.CANCELLED, None)
        assert service.audits.manifest_key("acme", audit) is None
        assert service.leases.claim("two") is None

    def test_cancelled_without_a_cancel_does_nothing(self, service: Service) -> None:
        audit = service.submit()
        assert not service.leases.cancelled(service.claim())
        assert service.audits.get("acme", audit).state is AuditState.RUNNING


def claimed_at(service: Service) -> datetime | None:
    """Of the only audit."""
    with reading(service.engine) as connection:
        return connection.scalars(select(AuditRow.claimed_at)).one()


class TestTimeOfTheClaim:
    """Collections of results wait for attempts by it."""

    def test_it_is_that_of_the_newest_attempt_also_while_it_is_being_cancelled(self, service: Service) -> None:
        audit = service.submit()
        service.claim("lost")
        first = claimed_at(service)
        service.expire()
        service.claim("heir")
        second = claimed_at(service)
        assert first is not None
        assert second is not None
        assert first < second
        service.audits.cancel("acme", audit)
        assert claimed_at(service) == second

    @pytest.mark.parametrize("end", ["retry", "hand_back", "fail", "succeed", "cancelled"])
    def test_there_is_none_once_no_attempt_is_at_work(self, service: Service, end: str) -> None:
        audit = service.submit()
        assert claimed_at(service) is None
        claim = service.claim()
        assert claimed_at(service) is not None
        if end == "cancelled":
            service.audits.cancel("acme", audit)
        ends = {
            "succeed": lambda: service.leases.succeed(claim, "manifest", SUMMARY),
            "fail": lambda: service.leases.fail(claim, PROBLEM),
            "retry": lambda: service.leases.retry(claim, PROBLEM, 0) is AuditState.QUEUED,
            "cancelled": lambda: service.leases.cancelled(claim),
            "hand_back": lambda: service.leases.hand_back(claim),
        }
        assert ends[end]()
        assert claimed_at(service) is None


class TestFailuresOfInfrastructure:
    def test_a_retry_waits_and_the_last_one_fails_with_the_cause(self, service: Service) -> None:
        audit = service.submit()
        for attempt in range(1, MAX_ATTEMPTS):
            assert service.leases.retry(service.claim(), PROBLEM, delay_seconds=10) is AuditState.QUEUED
            record = service.audits.get("acme", audit)
            assert (record.state, record.attempt, record.problem) == (AuditState.QUEUED, attempt, PROBLEM)
            assert service.leases.claim("early") is None
            service.clock.push(10 * 2 ** (attempt - 1))
        assert service.leases.retry(service.claim(), PROBLEM, delay_seconds=10) is AuditState.FAILED
        assert service.audits.get("acme", audit).problem == PROBLEM
        assert [event for event in service.events(audit) if event[0] == "retry"] == [("retry", "queued")] * 2

    @pytest.mark.parametrize("base", [1e-3, 10.0, 1e9])
    @pytest.mark.parametrize("chance", [0.0, 0.5])
    def test_backoffs_double_with_each_failure_up_to_five_minutes(
        self, service: Service, base: float, chance: float
    ) -> None:
        """Also where attempts were handed back in between, and however many failures there were."""
        audit = service.submit()
        leases = service.leases_with(10_000, chance)
        for failures in (0, 1, 2, 10, 2_000):
            with writing(service.engine) as connection:
                connection.execute(update(AuditRow).values(failures=failures))
            assert leases.hand_back(service.claim())
            with writing(service.engine) as connection:
                before = service.clock(connection)
            assert leases.retry(service.claim(), PROBLEM, base) is AuditState.QUEUED
            with reading(service.engine) as connection:
                due, after = connection.scalars(select(AuditRow.claimable_at)).one(), service.clock(connection)
            assert due is not None
            backoff = timedelta(seconds=(1 - chance / 2) * min(300.0, math.ldexp(base, min(failures, 64))))
            assert before + backoff <= due <= after + backoff
            service.clock.push(300)
        assert service.audits.get("acme", audit).attempt == 10

    def test_lost_leases_use_up_the_attempts(self, service: Service) -> None:
        audit = service.submit()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            assert service.claim(f"controller-{attempt}").attempt == attempt
            service.expire()
        waiting = service.submit()
        assert service.claim("last").audit_id == waiting
        record = service.audits.get("acme", audit)
        assert record.state is AuditState.FAILED
        assert record.problem is not None
        assert record.problem.slug == "lease-lost"
        assert f"controller-{MAX_ATTEMPTS}" in record.problem.detail
        assert [event for event in service.events(audit) if event[0] == "retry"] == [("retry", "running")] * 2

    def test_handed_back_it_is_claimable_at_once_and_no_attempt_is_used_up(self, service: Service) -> None:
        audit = service.submit()
        for attempt in range(1, MAX_ATTEMPTS + 3):
            claim = service.claim()
            assert claim.attempt == attempt
            assert service.leases.hand_back(claim)
            assert service.leases.heartbeat(claim) is Lease.LOST
        assert service.audits.get("acme", audit).problem is None
        assert service.leases.retry(service.claim(), PROBLEM, 0) is AuditState.QUEUED

    def test_a_cancelling_audit_whose_controller_died_is_cancelled_by_the_next(self, service: Service) -> None:
        audit = service.submit()
        service.claim()
        service.audits.cancel("acme", audit)
        assert service.leases.claim("two") is None
        assert service.audits.get("acme", audit).state is AuditState.CANCELLING
        service.expire()
        assert service.leases.claim("two") is None
        assert service.audits.get("acme", audit).state is AuditState.CANCELLED


class TestProgress:
    def test_it_is_in_the_record_and_in_the_events(self, service: Service) -> None:
        audit = service.submit()
        claim = service.claim()
        assert service.leases.progress(claim, some_progress(3))
        service.audits.cancel("acme", audit)
        assert service.leases.progress(claim, some_progress(4))
        assert service.audits.get("acme", audit).progress == some_progress(4)
        assert service.audits.get("acme", audit).state is AuditState.CANCELLING
        done = [event.data.get("problems_done") for event in service.audits.events("acme", audit)]
        assert done == [None, None, 3, None, 4]

    def test_events_have_no_gaps_whoever_writes_at_once(self, service: Service) -> None:
        audit = service.submit()
        claim = service.claim()
        at_once(
            *[lambda: [service.leases.progress(claim, some_progress(n)) for n in range(10)] for _ in range(4)],
            lambda: [service.audits.cancel("acme", audit) for _ in range(3)],
        )
        events = service.audits.events("acme", audit)
        assert [event.number for event in events] == list(range(1, 2 + 40 + 1 + 1))
        assert service.audits.state("acme", audit) == (AuditState.CANCELLING, len(events))

    def test_a_reader_that_follows_misses_no_event(self, service: Service) -> None:
        audit = service.submit()
        claim = service.claim()

        def follow() -> list[int]:
            seen: list[int] = []
            ended = False
            while not ended:
                ended = service.audits.state("acme", audit)[0].ended
                seen += [event.number for event in service.audits.events("acme", audit, after=len(seen), limit=3)]
            while more := service.audits.events("acme", audit, after=len(seen), limit=3):
                seen += [event.number for event in more]
            return seen

        def write() -> list[int]:
            for n in range(20):
                service.leases.progress(claim, some_progress(n))
            service.leases.succeed(claim, "manifest", SUMMARY)
            return []

        seen, _ = at_once(follow, write)
        assert seen == list(range(1, 2 + 20 + 1 + 1))


class TestHealth:
    def test_an_idle_service_waits_for_nothing(self, service: Service) -> None:
        assert service.leases.health().oldest_claimable_seconds is None
        assert service.leases.health().controller_seen_seconds is None

    def test_it_tells_how_long_work_waits_and_controllers_are_silent(self, service: Service) -> None:
        service.leases.beat("one")
        service.submit()
        service.clock.push(60)
        service.submit()
        service.leases.beat("two")
        service.clock.push(5)
        health = service.leases.health()
        assert health.oldest_claimable_seconds is not None
        assert health.controller_seen_seconds is not None
        assert 65 <= health.oldest_claimable_seconds < 95
        assert 5 <= health.controller_seen_seconds < 35
        service.claim()
        service.claim()
        assert service.leases.health().oldest_claimable_seconds is None
        service.expire()
        assert service.leases.health().oldest_claimable_seconds is not None

    def test_controllers_long_gone_are_forgotten(self, service: Service) -> None:
        for day in range(4):
            service.leases.beat(f"controller-{day}")
            service.leases.beat(f"controller-{day}")
            service.clock.push(2 * 86400)
        health = service.leases.health()
        assert health.controller_seen_seconds is not None
        assert health.controller_seen_seconds >= 2 * 86400


def test_only_others_that_planned_their_work_have_workers(service: Service) -> None:
    """An audit that waits for its own first worker holds none that another could wait for."""
    for tenant in ("acme", "other"):
        service.submit(tenant)
    one, two = service.claim("one"), service.claim("two")
    for claim in (one, two):
        service.leases.progress(claim, some_progress().model_copy(update={"phase": "reading", "problems_planned": 0}))
        assert not service.leases.others_have_workers(claim)
    service.leases.progress(two, some_progress())
    assert service.leases.others_have_workers(one)
    assert not service.leases.others_have_workers(two)
    service.expire()
    assert not service.leases.others_have_workers(one)
