"""Requests that a later version took, as controllers and replicas of this one meet them during an upgrade."""

import pytest
from sqlalchemy import select, text

from peelbound import __version__
from peelbound.service.database import unreadable
from peelbound.service.database.engine import reading, writing
from peelbound.service.database.tables import AuditRow
from peelbound.service.schemas.problem import Problem
from tests.integration.database.harness import (
    PROBLEM,
    Service,
    a_request,
)


class TestRequestsOfALaterVersion:
    """A replica of the API was upgraded before this controller, and took what the controller does not know."""

    @pytest.fixture(params=["an unknown value", "an unknown field"])
    def poisoned(self, service: Service, request: pytest.FixtureRequest) -> str:
        old, new = {
            "an unknown value": ('"preset":"standard"', '"preset":"later"'),
            "an unknown field": ('"preset":', '"of_a_later_version":"1","preset":'),
        }[request.param]
        audit = service.submit()
        with writing(service.engine) as connection:
            connection.execute(text("UPDATE requests SET body = replace(body, :old, :new)"), {"old": old, "new": new})
        return audit

    def test_it_waits_for_another_controller_and_others_are_carried_out(self, service: Service, poisoned: str) -> None:
        other = service.submit()
        assert service.claim().audit_id == other
        assert service.leases.claim("one") is None
        assert service.events(poisoned)[1:] == [("state", "running"), ("retry", "queued")]
        with reading(service.engine) as connection:
            row = connection.execute(select(AuditRow).where(AuditRow.id == poisoned)).one()
        assert (row.failures, row.problem.slug, row.problem.model_extra["tries"]) == (0, "request-unreadable", 1)
        assert __version__ in row.problem.detail
        assert any(field in row.problem.detail for field in ("(preset: ", "(of_a_later_version: "))

    def test_it_fails_when_none_has_come_for_long(self, service: Service, poisoned: str) -> None:
        ended = ("state", "failed")
        for tries in range(1, unreadable.TRIES + 1):
            assert ended not in service.events(poisoned)
            assert service.leases.claim("one") is None
            service.clock.push(unreadable.AGAIN_SECONDS)
            assert len(service.events(poisoned)) == 1 + 2 * tries
        assert service.events(poisoned)[-1] == ended

    def test_tries_before_another_controller_had_it_do_not_count(self, service: Service, poisoned: str) -> None:
        def problem() -> Problem:
            with reading(service.engine) as connection:
                return connection.scalars(select(AuditRow.problem).where(AuditRow.id == poisoned)).one()

        for _ in range(3):
            assert service.leases.claim("old") is None
            service.clock.push(unreadable.AGAIN_SECONDS)
        assert unreadable.next_try(problem(), 4) == 4
        assert unreadable.next_try(problem(), 5) == 1
        assert unreadable.next_try(PROBLEM, 4) == unreadable.next_try(None, 1) == 1

    @pytest.mark.parametrize("poisoned", ["an unknown field"], indirect=True)
    def test_a_cancel_ends_it(self, service: Service, poisoned: str) -> None:
        assert service.leases.claim("one") is None
        service.audits.cancel("acme", poisoned)
        service.clock.push(unreadable.AGAIN_SECONDS)
        assert service.leases.claim("one") is None
        assert service.events(poisoned)[-1] == ("state", "cancelled")


def test_an_unknown_field_of_a_later_version_does_not_hide_the_audit(service: Service) -> None:
    audit = service.submit()
    with writing(service.engine) as connection:
        connection.execute(text('UPDATE requests SET body = replace(body, \'"preset"\', \'"new":"1","preset"\')'))
    assert service.audits.get("acme", audit).request == a_request()
