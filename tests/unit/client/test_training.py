"""What the Trainer's callback asks for, and what it refuses before the training begins."""

from types import SimpleNamespace
from typing import Any, Self

import pytest
from pydantic import ValidationError
from transformers import TrainerControl, TrainerState, TrainingArguments

from peelbound import training
from peelbound.service.schemas.request import LABEL_LENGTH, AuditRequest, Calibration
from peelbound.training import AuditCheckpoints

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
        ("lr=3e-4, seed #1", "lr-3e-4- seed -1"),
        ("größe/läufe:7", "größe/läufe:7"),
        ("x²", "x-"),
        ("n" * 200, "n" * LABEL_LENGTH),
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


def test_a_run_that_is_given_stays_as_it_is(submitted: list[AuditRequest]) -> None:
    saved(AuditCheckpoints(CALIBRATION, run="run-7"), "another")
    assert [request.run for request in submitted] == ["run-7"]


@pytest.mark.parametrize("wrong", [{"run": "lr=3e-4"}, {"run": ""}, {"labels": {"team": ""}}, {"labels": {"a=b": "c"}}])
def test_what_no_request_may_hold_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AuditCheckpoints(CALIBRATION, **wrong)
