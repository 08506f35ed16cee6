"""The Trainer's callback, in a real training and against a real server."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from peelbound.client import Client
from peelbound.service.schemas.request import Calibration
from peelbound.training import AuditCheckpoints
from tests.faulty_proxy import faulty_proxy
from tests.integration.client.harness import Service
from tests.tiny_models import random_model

CALIBRATION = Calibration(uri="/data/text.jsonl")


def train(directory: Path, callback: AuditCheckpoints, *, loss: float | None = None, **changes: object) -> None:
    """Two steps, each logged and saved; a given loss is what every one of them is told."""

    class Told(Trainer):
        def compute_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], **_: object) -> torch.Tensor:
            found: torch.Tensor = model(**inputs).loss
            return found if loss is None else found * 0 + loss

    arguments = TrainingArguments(
        output_dir=str(directory), max_steps=2, save_steps=1, logging_steps=1, report_to=[], use_cpu=True,
        logging_nan_inf_filter=False, disable_tqdm=True, **changes,  # type: ignore[arg-type] # by name
    )  # fmt: skip
    ids = torch.arange(3, 11)
    Told(
        random_model("llama"),
        arguments,
        train_dataset=[{"input_ids": ids, "labels": ids}] * 8,  # type: ignore[arg-type] # any sized sequence will do
        callbacks=[callback],
    ).train()


def test_every_checkpoint_is_submitted_with_its_run_step_and_loss(service: Service, tmp_path: Path) -> None:
    callback = AuditCheckpoints(
        CALIBRATION, run="run-7", uri=lambda path: f"/data/{path.name}", labels={"team": "base"},
        url=service.url, token=service.token,
    )  # fmt: skip
    train(tmp_path, callback)
    logged = {
        e["step"]: e["loss"]
        for e in json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    }
    assert set(callback.submitted) == {1, 2}
    with Client(service.url, service.token) as client:
        for step, audit in callback.submitted.items():
            request = client.get(audit).request
            assert (request.checkpoint, request.run, request.step) == (f"/data/checkpoint-{step}", "run-7", step)
            assert request.training_loss == pytest.approx(logged[step])
            assert request.labels == {"team": "base"}


@pytest.mark.parametrize("loss", [math.nan, -0.5, 1e7])
def test_a_training_whose_loss_no_request_may_hold_is_audited_too(
    service: Service, tmp_path: Path, loss: float
) -> None:
    callback = AuditCheckpoints(CALIBRATION, uri=lambda _: "/data/ckpt", url=service.url, token=service.token)
    train(tmp_path, callback, loss=loss)
    with Client(service.url, service.token) as client:
        requests = [client.get(audit).request for audit in callback.submitted.values()]
    assert [(r.training_loss, r.run, r.step) for r in requests] == [(None, None, None)] * 2


def saved(callback: AuditCheckpoints, **state: Any) -> None:
    """As the Trainer tells it of a checkpoint."""
    arguments = TrainingArguments(output_dir="/data/runs", report_to=[], use_cpu=True)
    callback.on_save(arguments, TrainerState(global_step=5, **state), TrainerControl())


def test_an_answer_that_is_lost_is_asked_for_again_and_queues_one_audit(service: Service) -> None:
    with (
        faulty_proxy(service.url, cut_after=0, cuts=1) as proxy,
        Client(service.url, service.token) as client,
    ):
        callback = AuditCheckpoints(CALIBRATION, url=proxy.endpoint_url, token=service.token)
        saved(callback)
        assert proxy.faults == 1
        assert [record.id for record in client.iterate()] == [callback.submitted[5]]


def test_a_trials_checkpoint_is_found_by_its_name(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    callback = AuditCheckpoints(CALIBRATION, url=service.url, token=service.token)
    saved(callback, is_hyper_param_search=True, trial_name="rate-3")
    with Client(service.url, service.token) as client:
        assert client.get(callback.submitted[5]).request.checkpoint == "/data/runs/rate-3/checkpoint-5"
    nameless = AuditCheckpoints(CALIBRATION, url=service.url, token=service.token)
    with caplog.at_level(logging.WARNING, "peelbound.training"):
        saved(nameless, is_hyper_param_search=True)
    assert not nameless.submitted
    assert "hp_name" in caplog.text


def test_no_refusal_and_no_missing_service_ends_a_training(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "peelbound.training"):
        train(tmp_path / "refused", AuditCheckpoints(CALIBRATION, url=service.url, token=service.token))
        train(tmp_path / "away", AuditCheckpoints(CALIBRATION, url="http://127.0.0.1:9", token="t"))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"The checkpoint of step {step} is not audited" for _ in range(2) for step in (1, 2)
    ]
    assert "not under a prefix that may be read" in caplog.text
