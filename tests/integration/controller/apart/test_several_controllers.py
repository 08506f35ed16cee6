"""Controllers that share a database share the work, and one takes over what another leaves behind.

On PostgreSQL: a SQLite file is for one machine with one controller. What two may claim is asked of both kinds in
`tests/integration/database`.
"""

from pathlib import Path

from sqlalchemy import URL

from peelbound.service.settings import Settings
from tests.integration.controller.conftest import Inputs
from tests.integration.controller.harness import a_controller, a_service, gone
from tests.postgres_server import postgres_database
from tests.waiting import until


def test_each_audit_runs_once_and_that_of_a_killed_controller_goes_on(
    inputs: Inputs, reference: bytes, quick_reference: bytes, postgres_url: URL, tmp_path: Path
) -> None:
    with postgres_database(postgres_url, "several_controllers") as database_url:
        settings = Settings(
            state_dir=tmp_path / "state",
            database_url=database_url,
            workers=1,
            allow=[str(inputs.directory)],
            lease_seconds=10,  # no longer than a test waits, and longer than a busy machine makes a heartbeat late
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
            worked = [[a for a in audits.values() if f"{a} attempt 1: begun" in c.said()] for c in (one, other)]
            assert all(worked)
            assert sorted(worked[0] + worked[1]) == sorted(audits.values())

            audit = service.submit(inputs.request())
            until(lambda: service.half_solved())
            holder = one if audit in one.said() else other
            workers = holder.workers()
            holder.kill()
            until(lambda: all(gone(worker) for worker in workers))  # none may go on solving behind our back
            before = service.results()
            assert service.succeeded(audit) == reference
            after = service.results()
            assert {name: after[name] for name in before} == before
            assert service.states(audit) == ["queued", "running", "running", "succeeded"]
            assert service.record(audit).attempt == 2
            cached = [e.data["problems_cached"] for e in service.events(audit) if "problems_cached" in e.data]
            assert cached[-1] > 0
