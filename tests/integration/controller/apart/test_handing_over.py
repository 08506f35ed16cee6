"""What one controller leaves behind, handed back or killed, another goes on with; and who fails, fails alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.request import AuditRequest, Preset
from peelbound.service.settings import Settings
from tests.integration.controller.conftest import WHAT_IF, Inputs
from tests.integration.controller.harness import (
    LONG_SOLVES,
    ControllerProcess,
    Service,
    a_controller,
    a_service,
    gone,
)
from tests.waiting import until


@pytest.fixture(scope="module")
def unforgiving(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One failure ends an audit of this service, and a lease outlives the tests."""
    directory = tmp_path_factory.mktemp("unforgiving")
    settings = Settings(
        state_dir=directory / "state", workers=1, allow=[str(inputs.directory)], max_attempts=1, lease_seconds=3600
    )
    with a_service(settings) as service:
        yield service


@pytest.fixture(scope="module")
def successor(unforgiving: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """Its controller, once there is none any more."""
    with a_controller(unforgiving.settings, tmp_path_factory.mktemp("successor") / "log") as controller:
        yield controller


def test_sigterm_hands_the_audit_back_and_another_finishes_it(
    unforgiving: Service, inputs: Inputs, reference: bytes, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    service = unforgiving
    with a_controller(service.settings, tmp_path / "log") as first:
        audit = service.submit(inputs.request())
        until(lambda: service.half_solved())
        family = first.family()
        assert first.terminate() == 0
        until(lambda: all(gone(process) for process in family))
    before = service.results()
    record = service.record(audit)
    assert (record.state, record.attempt, record.problem) == (AuditState.QUEUED, 1, None)
    request.getfixturevalue("successor")
    assert service.succeeded(audit) == reference
    after = service.results()
    assert {name: after[name] for name in before} == before
    assert service.states(audit) == ["queued", "running", "queued", "running", "succeeded"]


def test_one_worker_makes_the_reports_of_two(
    unforgiving: Service,
    successor: ControllerProcess,
    inputs: Inputs,
    beside: AuditRequest,
    rounded: bytes,
    beside_baseline: bytes,
) -> None:
    assert unforgiving.succeeded(unforgiving.submit(inputs.request(**WHAT_IF))) == rounded
    assert unforgiving.succeeded(unforgiving.submit(beside)) == beside_baseline
    assert len(successor.workers()) == 1


def test_an_audit_that_keeps_killing_its_workers_fails_and_the_next_one_succeeds(
    unforgiving: Service, successor: ControllerProcess, inputs: Inputs
) -> None:
    """The test plays the kernel that ends whoever takes too much memory."""
    service = unforgiving
    audit = service.submit(inputs.request(options=LONG_SOLVES), "poison")
    killed: set[int] = set()

    def ended() -> bool:
        record = service.record(audit, "poison")
        if record.progress is not None and record.progress.phase == "block_references":
            for worker in successor.workers():
                if worker.pid not in killed:
                    killed.add(worker.pid)
                    worker.kill()
        return record.state.ended

    until(ended)
    record = service.record(audit, "poison")
    assert record.state is AuditState.FAILED
    assert record.problem is not None
    assert record.problem.slug == "worker-lost"
    assert len(killed) == 3
    assert service.run(inputs.request(preset=Preset.QUICK), "next").state is AuditState.SUCCEEDED
