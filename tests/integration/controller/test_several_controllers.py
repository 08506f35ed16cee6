"""Controllers that share a database share the work, and one takes over what another leaves behind."""

from pathlib import Path

from peelbound.service.settings import Settings
from tests.integration.controller.conftest import Inputs
from tests.integration.controller.harness import a_controller, a_service, gone
from tests.waiting import until


def test_each_audit_runs_once_and_that_of_a_killed_controller_goes_on(
    inputs: Inputs, reference: bytes, quick_reference: bytes, database_url: str, tmp_path: Path
) -> None:
    settings = Settings(
        state_dir=tmp_path / "state",
        database_url=database_url,
        workers=1,
        allow=[str(inputs.directory)],
        lease_seconds=3,
        poll_seconds=0.05,
    )
    with (
        a_service(settings) as service,
        a_controller(settings, tmp_path / "one.log") as one,
        a_controller(settings, tmp_path / "other.log") as other,
    ):
        until(lambda: "ready" in one.said() and "ready" in other.said())
        quick = inputs.request(preset="quick")
        audits = {f"tenant-{n}": service.submit(quick, f"tenant-{n}") for n in range(4)}
        for tenant, audit in audits.items():
            assert service.succeeded(audit, tenant) == quick_reference
            assert service.states(audit, tenant) == ["queued", "running", "succeeded"]
        worked = [[audit for audit in audits.values() if f"{audit} attempt 1: begun" in c.said()] for c in (one, other)]
        assert all(worked)
        assert sorted(worked[0] + worked[1]) == sorted(audits.values())

        audit = service.submit(inputs.request())
        until(lambda: service.half_solved())
        holder = one if audit in one.said() else other
        family = holder.kill()
        until(lambda: all(gone(process) for process in family))  # none may go on solving behind our back
        before = service.results()
        assert service.succeeded(audit) == reference
        after = service.results()
        assert {name: after[name] for name in before} == before
        assert service.states(audit) == ["queued", "running", "running", "succeeded"]
        assert service.record(audit).attempt == 2
        cached = [e.data["problems_cached"] for e in service.events(audit) if "problems_cached" in e.data]
        assert cached[-1] > 0
