"""What the API relies on: submit, page, filter, cancel, delete, events, runs."""

import json

import pytest
from sqlalchemy import event
from sqlalchemy import text as sql

from peelbound.service.database import audits as audits_module
from peelbound.service.database.engine import make_engine, writing
from peelbound.service.database.errors import (
    AuditEnded,
    AuditNotEnded,
    AuditNotFound,
    AuditUnreadable,
    CursorInvalid,
    IdempotencyConflict,
    RunNotFound,
    ValueRefused,
)
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.request import Calibration
from tests.integration.database.harness import PROBLEM, SUMMARY, Service, a_request, at_once


def test_a_submitted_audit_reads_back_as_it_was_asked_for(service: Service) -> None:
    request = a_request(
        calibration=Calibration(texts=["a NUL \x00, a newline \n, λ and 🍊"]),
        run="r",
        step=2**52,
        labels={"team": "a b"},
    )
    record, created = service.audits.submit("acme", request, None)
    assert created
    assert record == service.audits.get("acme", record.id)
    assert record.request == request
    assert (record.state, record.attempt, record.problem) == (AuditState.QUEUED, 0, None)
    assert record.created_at.utcoffset() is not None
    assert service.events(record.id) == [("state", "queued")]


class TestAuditsOfALaterVersion:
    """What this version knows no way to show; the other audits are shown as ever."""

    @pytest.fixture
    def written(self, service: Service) -> list[str]:
        """Five audits that have succeeded, newest first; of the first, second and fourth something is not known."""
        audits = []
        for step in range(5):
            audits.append(service.submit(run="r", step=step))
            service.leases.succeed(service.claim(), "the/manifest", SUMMARY)
        audits.reverse()
        with writing(service.engine) as connection:
            for audit, table, column, old in (
                (audits[0], "requests", "body", '"preset":"standard"'),
                (audits[1], "audits", "summary", '"status":"holds"'),
                (audits[3], "audits", "summary", '"status":"holds"'),
            ):
                key = "audit_id" if table == "requests" else "id"
                changed = f"UPDATE {table} SET {column} = replace({column}, :old, :new) WHERE {key} = :audit"
                new = f'{old.split(":")[0]}:"later"'
                assert connection.execute(sql(changed), {"audit": audit, "old": old, "new": new}).rowcount == 1
        return audits

    def test_one_is_said_to_be_so(self, service: Service, written: list[str]) -> None:
        for audit in (written[0], written[1]):
            with pytest.raises(AuditUnreadable, match=rf"{audit} \((preset|status): "):
                service.audits.get("acme", audit)
        assert service.audits.small([("acme", audit) for audit in written]).keys() == {
            ("acme", written[2]),
            ("acme", written[4]),
        }

    def test_pages_leave_them_out_and_go_on(self, service: Service, written: list[str]) -> None:
        first = service.audits.page("acme", limit=2)
        assert first.items == []
        second = service.audits.page("acme", limit=2, cursor=first.next_cursor)
        third = service.audits.page("acme", limit=2, cursor=second.next_cursor)
        assert [record.id for record in second.items + third.items] == [written[2], written[4]]
        assert third.next_cursor is None
        assert [point.step for point in service.audits.run_series("acme", "r").points] == [0, 2, 4]

    def test_one_is_cancelled_all_the_same(self, service: Service) -> None:
        audit = service.submit()
        with writing(service.engine) as connection:
            connection.execute(sql("UPDATE requests SET body = replace(body, 'standard', 'later')"))
        with pytest.raises(AuditUnreadable):
            service.audits.cancel("acme", audit)
        assert service.audits.state("acme", audit).state is AuditState.CANCELLED


def test_fields_of_a_later_version_are_ignored_where_they_are_read(service: Service) -> None:
    """During an upgrade both versions work on one database."""
    record, _ = service.audits.submit("acme", a_request(), "key")
    claim = service.claim()
    problem = Problem.make("memory-exceeded", "Too large", 422, "a worker has less", bytes_needed=7)
    assert service.leases.fail(claim, problem)
    with writing(service.engine) as connection:
        for table, column, within in (
            ("requests", "body", '"calibration": {'),
            ("requests", "body", "{"),
            ("audits", "problem", "{"),
        ):
            found = connection.exec_driver_sql(f"SELECT {column} FROM {table}").scalar_one()
            text = json.dumps(json.loads(found)).replace(within, f'{within}"of_a_later_version": {{"x": 1}}, ', 1)
            assert text.count("of_a_later_version") == found.count("of_a_later_version") + 1
            connection.execute(sql(f"UPDATE {table} SET {column} = :text"), {"text": text})
    read = service.audits.get("acme", record.id)
    assert read.request == record.request
    assert read.problem is not None
    assert read.problem.model_extra == {"bytes_needed": 7, "of_a_later_version": {"x": 1}}  # a problem may have any
    assert service.audits.submit("acme", a_request(), "key") == (read, False)


class TestIdempotency:
    def test_the_same_key_and_request_answer_the_same_audit(self, service: Service) -> None:
        first, created = service.audits.submit("acme", a_request(labels={"a": "1", "b": "2"}), "key")
        again, created_again = service.audits.submit("acme", a_request(labels={"b": "2", "a": "1"}), "key")
        assert (created, created_again) == (True, False)
        assert again == first

    def test_another_request_under_the_key_is_refused(self, service: Service) -> None:
        first, _ = service.audits.submit("acme", a_request(), "key")
        with pytest.raises(IdempotencyConflict, match=first.id):
            service.audits.submit("acme", a_request(seed=1), "key")

    def test_a_key_is_the_tenants_own_and_free_again_once_its_audit_is_deleted(self, service: Service) -> None:
        first, _ = service.audits.submit("acme", a_request(), "key")
        _, created = service.audits.submit("other", a_request(seed=1), "key")
        assert created
        service.audits.cancel("acme", first.id)
        service.audits.delete("acme", first.id)
        _, created = service.audits.submit("acme", a_request(seed=2), "key")
        assert created

    @pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)  # SQLite has one writer
    def test_a_key_whose_audit_is_deleted_just_when_it_is_found_taken_is_free(self, service: Service) -> None:
        first, _ = service.audits.submit("acme", a_request(), "key")
        service.audits.cancel("acme", first.id)
        other = Service(make_engine(service.engine.url.render_as_string(hide_password=False)))
        doomed = [first.id]

        def delete(*call: str) -> None:
            if doomed and call[2].startswith("SELECT") and "requests.body" in call[2]:
                other.audits.delete("acme", doomed.pop())

        event.listen(service.engine, "before_cursor_execute", delete)
        second, created = service.audits.submit("acme", a_request(), "key")
        other.engine.dispose()
        assert created
        assert second.id != first.id

    def test_submitted_at_once_under_one_key_there_is_one_audit(self, service: Service) -> None:
        for key in ("k1", "k2", "k3"):
            answers = at_once(*[lambda key=key: service.audits.submit("acme", a_request(), key)] * 6)
            assert len({record.id for record, _ in answers}) == 1
            assert sorted(created for _, created in answers) == [False] * 5 + [True]
        assert len(service.audits.page("acme").items) == 3


class TestTenants:
    def test_an_audit_is_nobody_elses(self, service: Service) -> None:
        audit = service.submit("acme", run="r")
        assert service.audits.page("other").items == []
        assert service.audits.runs("other") == []
        for read in (
            service.audits.get,
            service.audits.state,
            service.audits.cancel,
            service.audits.delete,
            service.audits.events,
            service.audits.manifest_key,
        ):
            with pytest.raises(AuditNotFound):
                read("other", audit)
        with pytest.raises(RunNotFound):
            service.audits.run_series("other", "r")
        assert service.audits.get("acme", audit).state is AuditState.QUEUED


class TestPages:
    def test_paging_is_stable_while_audits_come_and_go(self, service: Service) -> None:
        old = [service.submit() for _ in range(7)]
        first = service.audits.page("acme", limit=3)
        added = [service.submit() for _ in range(2)]
        service.audits.cancel("acme", old[4])
        service.audits.delete("acme", old[4])
        second = service.audits.page("acme", limit=3, cursor=first.next_cursor)
        third = service.audits.page("acme", limit=3, cursor=second.next_cursor)
        seen = [record.id for page in (first, second, third) for record in page.items]
        assert seen == old[::-1]
        assert third.next_cursor is None
        assert [record.id for record in service.audits.page("acme", limit=2).items] == added[::-1]

    def test_filters_narrow_together(self, service: Service) -> None:
        service.submit(run="r", labels={"team": "a"}, checkpoint="s3://models/r/step-1")
        wanted = service.submit(run="r", labels={"team": "a", "why": "x"}, checkpoint="s3://models/r/step-2")
        service.submit(run="r", labels={"team": "b"}, checkpoint="s3://models/r/step-2")
        service.submit(run="q", labels={"team": "a"}, checkpoint="s3://models/r/step-2")
        service.submit(run="r", labels={"other": "a"}, checkpoint="s3://models/r/step-2")
        cancelled = service.submit(run="r", labels={"team": "a"}, checkpoint="s3://models/r/step-2")
        service.audits.cancel("acme", cancelled)
        page = service.audits.page(
            "acme",
            run="r",
            labels=[("team", "a"), ("te", "am")],
            checkpoint_prefix="s3://models/r/step-2",
            state=AuditState.QUEUED,
        )
        assert [record.id for record in page.items] == [wanted]

    def test_of_several_labels_one_must_fit(self, service: Service) -> None:
        ids = [service.submit(labels=labels) for labels in ({"a:b": "c"}, {"a": "b:c"}, {"a": "c"}, {"b": "c"})]
        page = service.audits.page("acme", labels=[("a", "b:c"), ("a:b", "c")])
        assert [record.id for record in page.items] == ids[1::-1]
        assert service.audits.page("acme", labels=[]).items == []

    def test_a_checkpoint_prefix_is_taken_literally(self, service: Service) -> None:
        exact = service.submit(checkpoint="s3://m/a_%/1")
        service.submit(checkpoint="s3://m/a__/1")
        service.submit(checkpoint="S3://M/A_%/1")
        page = service.audits.page("acme", checkpoint_prefix="s3://m/a_%/")
        assert [record.id for record in page.items] == [exact]

    @pytest.mark.parametrize("cursor", ["", "x", "!!!!", "A" * 22 + "=", "A" * 21 + "B", "\x00", "λ" * 22])
    def test_a_foreign_cursor_is_refused(self, service: Service, cursor: str) -> None:
        with pytest.raises(CursorInvalid):
            service.audits.page("acme", cursor=cursor)

    def test_a_page_of_huge_requests_ends_early_and_none_is_lost(self, service: Service) -> None:
        text = "x" * (audits_module.PAGE_BYTES // 2 - 10_000)
        huge = [service.submit(calibration=Calibration(texts=[text])) for _ in range(3)]
        first = service.audits.page("acme")
        second = service.audits.page("acme", cursor=first.next_cursor)
        assert [record.id for record in first.items] == [huge[2], huge[1]]
        assert [record.id for record in second.items] == [huge[0]]
        assert second.next_cursor is None


class TestCancel:
    def test_queued_ends_at_once(self, service: Service) -> None:
        audit = service.submit()
        record = service.audits.cancel("acme", audit)
        assert record.state is AuditState.CANCELLED
        assert record.ended_at is not None
        assert service.leases.claim("one") is None
        assert service.events(audit) == [("state", "queued"), ("state", "cancelled")]

    def test_running_is_asked_to_stop_and_asking_twice_changes_nothing(self, service: Service) -> None:
        audit = service.submit()
        service.claim()
        assert service.audits.cancel("acme", audit).state is AuditState.CANCELLING
        assert service.audits.cancel("acme", audit).state is AuditState.CANCELLING
        assert service.events(audit) == [("state", "queued"), ("state", "running"), ("state", "cancelling")]

    def test_an_ended_one_is_left_as_it_is(self, service: Service) -> None:
        cancelled, failed, succeeded = (service.submit() for _ in range(3))
        service.audits.cancel("acme", cancelled)
        service.leases.fail(service.claim(), PROBLEM)
        service.leases.succeed(service.claim(), "manifest", SUMMARY)
        for audit in (cancelled, failed, succeeded):
            before = service.audits.get("acme", audit)
            with pytest.raises(AuditEnded):
                service.audits.cancel("acme", audit)
            assert service.audits.get("acme", audit) == before


class TestDelete:
    def test_only_an_ended_audit_is_forgotten_and_wholly(self, service: Service) -> None:
        audit = service.submit(run="r", labels={"a": "1"})
        with pytest.raises(AuditNotEnded, match="queued"):
            service.audits.delete("acme", audit)
        claim = service.claim()
        with pytest.raises(AuditNotEnded, match="running"):
            service.audits.delete("acme", audit)
        service.leases.succeed(claim, "the/manifest", SUMMARY)
        assert service.audits.manifest_key("acme", audit) == "the/manifest"
        assert service.audits.delete("acme", audit) == "the/manifest"
        with pytest.raises(AuditNotFound):
            service.audits.get("acme", audit)
        with pytest.raises(AuditNotFound):
            service.audits.delete("acme", audit)
        assert service.audits.page("acme", labels=[("a", "1")]).items == []

    def test_without_results_there_is_no_manifest(self, service: Service) -> None:
        audit = service.submit()
        assert service.audits.manifest_key("acme", audit) is None
        service.audits.cancel("acme", audit)
        assert service.audits.delete("acme", audit) is None


def test_events_resume_after_the_number_last_seen(service: Service) -> None:
    audit = service.submit()
    service.claim()
    service.audits.cancel("acme", audit)
    every = service.audits.events("acme", audit)
    assert [event.number for event in every] == [1, 2, 3]
    assert service.audits.events("acme", audit, after=1, limit=1) == every[1:2]
    assert service.audits.events("acme", audit, after=3) == []
    assert service.audits.state("acme", audit) == (AuditState.CANCELLING, 3)


def test_a_run_is_a_series_by_step_of_what_succeeded_or_may(service: Service) -> None:
    late = service.submit(run="r", step=200, training_loss=2.5)
    service.leases.succeed(service.claim(), "manifest", SUMMARY)
    early = service.submit(run="r", step=100)
    stepless = service.submit(run="r")
    service.audits.cancel("acme", service.submit(run="r", step=300))
    service.submit(run="another")
    series = service.audits.run_series("acme", "r")
    assert [point.audit_id for point in series.points] == [early, late, stepless]
    assert (series.points[1].training_loss, series.points[1].summary) == (2.5, SUMMARY)
    assert service.audits.runs("acme") == ["another", "r"]


def test_a_nul_in_a_name_finds_nothing_and_breaks_nothing(service: Service) -> None:
    """PostgreSQL refuses NUL in text where SQLite just finds no match; neither may look like a fault of the service."""
    with pytest.raises((ValueRefused, AuditNotFound)):
        service.audits.get("acme", "\x00")


class TestStandings:
    def test_any_number_is_one_question(self, service: Service) -> None:
        """More than there may be parameters, on PostgreSQL as on SQLite."""
        there = [("acme", service.submit()), ("other", service.submit("other"))]
        service.audits.cancel(*there[1])
        strangers = [("acme", there[1][1]), ("other", there[0][1])]
        absent = [("acme" if n % 2 else "other", f"{n:026}") for n in range(40_000)]
        found = service.audits.standings([*absent[:20_000], *there, *strangers, *absent[20_000:]])
        assert found == {there[0]: (AuditState.QUEUED, 1), there[1]: (AuditState.CANCELLED, 2)}
        assert service.audits.standings([]) == {}

    @pytest.mark.parametrize("odd", ["\0", "a\0", '"', "\\", "{}", "a,b", "'", "λ🍊", ""])
    def test_an_odd_key_finds_nothing_and_takes_nothing_from_the_others(self, service: Service, odd: str) -> None:
        audit = service.submit()
        keys = [("acme", odd), ("acme", audit), (odd, audit)]
        assert service.audits.standings(keys) == {("acme", audit): (AuditState.QUEUED, 1)}
