"""What the Trainer's callback asks for, and what it refuses before the training begins."""

import logging
import threading
from types import SimpleNamespace
from typing import Any, Self

import pytest
from pydantic import ValidationError
from transformers import TrainerControl, TrainerState, TrainingArguments

from peelbound import training
from peelbound.errors import ServiceNotFound
from peelbound.service.schemas.request import LABEL_LENGTH, AuditRequest, Calibration
from peelbound.training import AuditCheckpoints
from tests.waiting import DEADLINE_SECONDS, until

CALIBRATION = Calibration(uri="/data/text.jsonl")


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[AuditRequest]:
    """The requests that a service in the client's place has got."""
    requests: list[AuditRequest] = []

    class Service:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, request: AuditRequest, **_: object) -> SimpleNamespace:
            requests.append(request)
            return SimpleNamespace(id=f"audit-{len(requests)}")

    monkeypatch.setattr(training, "Client", Service)
    return requests


def saved(callback: AuditCheckpoints, run_name: str | None = None, **state: Any) -> None:
    """As the Trainer tells it of a checkpoint."""
    arguments = TrainingArguments(output_dir="/data/runs", report_to=[], use_cpu=True, run_name=run_name)
    callback.on_save(arguments, TrainerState(global_step=5, **state), TrainerControl())


@pytest.mark.parametrize(
    ("run_name", "run"),
    [
        ("lr=3e-4, seed #1", "lr-3e-4- seed -1-db2a5730"),
        ("größe/läufe:7", "größe/läufe:7"),
        ("x²", "x--f3b5ff19"),
        ("n" * LABEL_LENGTH, "n" * LABEL_LENGTH),
        ("n" * (LABEL_LENGTH + 1), "n" * (LABEL_LENGTH - 9) + "-0bf2917c"),
        ("", None),
        (None, None),
    ],
)
def test_the_trainers_name_of_a_run_is_made_one_that_a_run_may_have(
    submitted: list[AuditRequest], run_name: str | None, run: str | None
) -> None:
    callback = AuditCheckpoints(CALIBRATION)
    saved(callback, run_name)
    assert [(request.run, request.step) for request in submitted] == [(run, None if run is None else 5)]
    assert callback.submitted == {5: "audit-1"}


def test_names_that_differ_are_different_runs(submitted: list[AuditRequest]) -> None:
    for run_name in ("lr=1", "lr?1", "lr-1", "n" * 200 + "1", "n" * 200 + "2"):
        saved(AuditCheckpoints(CALIBRATION), run_name)
    assert len({request.run for request in submitted}) == 5


def test_a_run_that_is_given_stays_as_it_is(submitted: list[AuditRequest]) -> None:
    saved(AuditCheckpoints(CALIBRATION, run="run-7"), "another")
    assert [request.run for request in submitted] == ["run-7"]


@pytest.mark.parametrize("wrong", [{"run": "lr=3e-4"}, {"run": ""}, {"labels": {"team": ""}}, {"labels": {"a=b": "c"}}])
def test_what_no_request_may_hold_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AuditCheckpoints(CALIBRATION, **wrong)


def test_a_service_that_does_not_answer_costs_a_training_so_long_and_no_longer(
    submitted: list[AuditRequest], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = threading.Event()

    def late(_: object, request: AuditRequest, **__: object) -> SimpleNamespace:
        assert answer.wait(DEADLINE_SECONDS)
        return SimpleNamespace(id="late")

    monkeypatch.setattr(training.Client, "submit", late)
    monkeypatch.setattr(training, "SUBMIT_SECONDS", 0.01)
    callback = AuditCheckpoints(CALIBRATION)
    with caplog.at_level(logging.WARNING, "peelbound.training"):
        saved(callback)
    assert not callback.submitted
    assert "The checkpoint of step 5 is not audited: the service has not answered within 0.01 s" in caplog.text
    answer.set()
    until(lambda: callback.submitted == {5: "late"})


def test_what_a_submission_raises_is_logged(
    submitted: list[AuditRequest], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ServiceNotFound("none runs here")

    monkeypatch.setattr(training.Client, "submit", refuse)
    with caplog.at_level(logging.WARNING, "peelbound.training"):
        saved(AuditCheckpoints(CALIBRATION))
    assert "The checkpoint of step 5 is not audited: none runs here" in caplog.text
