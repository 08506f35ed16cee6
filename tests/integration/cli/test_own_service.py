"""The service that a command starts for itself when none runs."""

import stat
import sys
from pathlib import Path

import pytest

from peelbound import embedded, supervisor
from peelbound.cli.connect import service_for
from peelbound.errors import ProblemError
from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.request import AuditRequest, Calibration
from tests.integration.cli.conftest import STAND_IN, stand_ins
from tests.waiting import until


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """A checkpoint laid out as a Hugging Face cache, and a calibration file beside it."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1f3a").write_text("{}")
    (snapshot / "config.json").symlink_to(blobs / "1f3a")
    (tmp_path / "text.txt").write_text("text")
    return [str(snapshot), str(tmp_path / "text.txt")]


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEELBOUND_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("PEELBOUND_URL", raising=False)


def test_it_reads_what_the_command_names_and_nothing_else(places: list[str], tmp_path: Path) -> None:
    checkpoint, text = places
    with service_for(places, with_controller=False) as service:
        assert service.own
        request = AuditRequest(checkpoint=checkpoint, calibration=Calibration(uri=text))
        assert service.client.submit(request).request == request
        for place in (str(tmp_path), "/etc", "s3://models/x"):
            with pytest.raises(ProblemError) as refused:
                service.client.submit(request.model_copy(update={"checkpoint": place}))
            assert refused.value.problem.slug == "uri-refused"


def test_its_audits_end_with_it_and_its_queue_is_nobodys(places: list[str], tmp_path: Path) -> None:
    request = AuditRequest(checkpoint=places[0], calibration=Calibration(uri=places[1]))
    for _ in range(2):
        with service_for(places, with_controller=False) as service:
            assert list(service.client.iterate()) == []
            service.client.submit(request)
    assert not (tmp_path / "state" / "peelbound.db").exists()
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_what_the_environment_says_of_a_server_is_not_for_it(
    places: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEELBOUND_ALLOWED_HOSTS", '["peelbound.example"]')
    monkeypatch.setenv("PEELBOUND_CONTROLLER_METRICS_PORT", "9100")
    monkeypatch.setattr(embedded, "CONTROLLER", STAND_IN)
    with service_for(places, with_controller=True) as service:
        assert list(service.client.iterate()) == []
        until(lambda: len(stand_ins()) == 1)
        (controller,) = stand_ins()
        assert "PEELBOUND_CONTROLLER_METRICS_PORT" not in controller.environ()


def test_an_audit_fails_with_the_reason_where_no_controller_stays_up(
    places: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(embedded, "CONTROLLER", [sys.executable, "-c", "raise SystemExit('Ray is not to be had')"])
    with service_for(places, with_controller=True) as service:
        request = AuditRequest(checkpoint=places[0], calibration=Calibration(uri=places[1]))
        ended = service.client.wait(service.client.submit(request).id)
    assert ended.state is AuditState.FAILED
    assert ended.problem is not None
    assert ended.problem.slug == "controller-ended"
    assert "status 1" in ended.problem.detail
    assert "Ray is not to be had" in ended.problem.detail
