"""What an audit of a real, tiny checkpoint would cost."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peelbound.service.controller.inputs import open_inputs
from peelbound.service.controller.planning import plan_request
from peelbound.service.controller.weights import foretold
from peelbound.service.controller.worker_memory import SKELETON_BYTES
from peelbound.service.plan import make_plan
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings
from peelbound.workers.calibration import loss_mask
from peelbound.workers.errors import CalibrationError, RequestError, UriRefused
from peelbound.workers.quantisers.quantise import quantise
from peelbound.workers.quantisers.scheme import Scheme
from tests.tiny_models import random_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    random_model("llama").save_pretrained(directory)
    return directory


@pytest.fixture
def settings(checkpoint: Path, tmp_path: Path) -> Settings:
    return Settings(allow=[checkpoint.as_uri()], state_dir=tmp_path, workers=3)


def request(checkpoint: Path, preset: str = "standard", **options: Any) -> AuditRequest:
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, 96, 20).tolist() for _ in range(60)]
    return AuditRequest.model_validate(
        {
            "checkpoint": str(checkpoint),
            "calibration": {
                "token_ids": documents,
                "sequence_length": 16,
                "fit_sequences": 8,
                "select_sequences": 4,
                "check_sequences": 24,
            },
            "preset": preset,
            "options": options,
        }
    )


@pytest.mark.parametrize("preset", ["quick", "standard", "exhaustive"])
def test_a_plan_counts_what_the_audit_will_do(checkpoint: Path, settings: Settings, preset: str) -> None:
    asked = request(checkpoint, preset)
    found = plan_request(asked, settings)
    plan = make_plan(asked, 3, 32)
    assert (found.preset, found.blocks, found.workers) == (preset, 3, 3)
    assert found.problems == plan.problem_counts
    assert found.maps == [list(m) for m in plan.maps]
    assert [w.name for w in found.walks] == list(plan.walks)
    solving = found.flops - sum(w.flops for w in found.walks)
    assert solving > 0
    assert all(w.flops > 0 for w in found.walks)
    assert found.estimated_seconds * found.assumed_flops_per_second * 3 == pytest.approx(found.flops)


def test_bytes_and_parameters_are_those_of_the_files(checkpoint: Path, settings: Settings) -> None:
    found = plan_request(request(checkpoint), settings)
    model = random_model("llama")
    parameters = sum(p.numel() for p in model.parameters())
    in_blocks = sum(p.numel() for p in model.get_submodule("model.layers").parameters())
    assert found.parameters == parameters
    assert found.checkpoint_bytes == 4 * parameters
    assert found.walks[0].bytes_read == 4 * parameters
    assert {w.bytes_read for w in found.walks[1:]} == {4 * in_blocks}
    file = checkpoint / "model.safetensors"
    assert found.checkpoint_bytes < file.stat().st_size < found.checkpoint_bytes + 10_000


def test_tokens_are_those_with_a_loss_and_states_those_that_are_kept(checkpoint: Path, settings: Settings) -> None:
    splits = open_inputs(request(checkpoint), settings).calibration.splits
    found = plan_request(request(checkpoint), settings)
    assert found.documents == {name: split.documents for name, split in splits.items()}
    assert found.tokens == {name: int(loss_mask(split).sum()) for name, split in splits.items()}
    assert found.tokens["check"] < splits["check"].ids.size
    sizes = {name: split.ids.size for name, split in splits.items()}
    every_boundary = 4 * sum(sizes.values())
    # A candidate or a skip leaves at each of the three blocks; all are there before and after the last block.
    on_check = 2 * sizes["check"] * (1 + 2 * 3)
    assert on_check > 2 * sizes["select"] * (1 + found.problems["block_reference"] + found.problems["matrix"])
    inside = 3 * sizes["fit"]
    assert found.state_bytes == 4 * 32 * (every_boundary + inside + on_check)
    quick = plan_request(request(checkpoint, "quick"), settings)
    assert found.state_bytes - quick.state_bytes == 4 * 32 * (4 * sizes["select"] + inside)


def test_with_depth_a_workers_memory_grows_by_empty_blocks_alone_while_the_states_grow(tmp_path: Path) -> None:
    settings = Settings(allow=[tmp_path.as_uri()], state_dir=tmp_path / "state")
    plans = []
    for blocks in (2, 8):
        random_model("llama", num_hidden_layers=blocks).save_pretrained(tmp_path / str(blocks))
        plans.append(plan_request(request(tmp_path / str(blocks), "quick"), settings))
    assert plans[1].worker_bytes - plans[0].worker_bytes == pytest.approx(6 * SKELETON_BYTES, abs=1000)
    assert plans[0].state_bytes < plans[1].state_bytes


def test_more_work_costs_more(checkpoint: Path, settings: Settings) -> None:
    costs = [plan_request(request(checkpoint, preset), settings) for preset in ("quick", "standard")]
    assert costs[0].flops < costs[1].flops
    assert costs[0].result_bytes < costs[1].result_bytes
    more = plan_request(request(checkpoint, "quick", block_steps=100), settings)
    assert more.flops > costs[0].flops
    assert more.result_bytes == costs[0].result_bytes
    bigger = plan_request(request(checkpoint, "quick", grain=16), settings)
    assert bigger.worker_bytes > costs[0].worker_bytes


def test_what_would_end_the_audit_ends_the_plan(checkpoint: Path, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        plan_request(request(checkpoint, maps=[[3], [5]]), settings)
    assert caught.value.pointer == "/options/maps/1"
    with pytest.raises(UriRefused):
        plan_request(request(tmp_path), settings)


def test_as_a_program_it_answers_a_bad_request_with_a_problem(checkpoint: Path, settings: Settings) -> None:
    asked = request(checkpoint, maps=[[3], [5]])
    done = subprocess.run(
        [sys.executable, "-m", "peelbound.service.controller.plan_program"],
        input=asked.model_dump_json().encode(),
        env={**os.environ, **settings.environment()},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    problem = Problem.model_validate_json(done.stdout)
    assert problem.type.endswith("request-anchors")
    assert problem.pointer == "/options/maps/1"
    assert problem.status == 422


def test_references_in_full_precision_beside_a_low_bit_model_are_planned(settings: Settings, tmp_path: Path) -> None:
    """No config says it: the weights do, in the one map that a plan looks at."""
    model = random_model("llama")
    for parameter in model.get_submodule("model.layers").parameters():
        if parameter.ndim == 2:
            parameter.data = quantise(parameter.data, Scheme.parse("ternary")).contiguous()
    model.save_pretrained(tmp_path / "ternary")
    allowed = settings.model_copy(update={"allow": [tmp_path.as_uri()]})
    asked = request(tmp_path / "ternary")
    found, plan = plan_request(asked, allowed), make_plan(asked, 3, 32, Scheme.parse("ternary"))
    assert found.weights == "ternary"
    assert found.weights_why.startswith("By self_attn.k_proj.weight of block 1 alone: ")
    assert found.problems == plan.problem_counts
    assert found.problems["full_precision_network"] > 0
    full = plan_request(request(tmp_path / "ternary", weights="full"), allowed)
    assert full.weights == "full"
    assert full.flops < found.flops
    assert full.result_bytes < found.result_bytes
    with pytest.raises(RequestError):
        plan_request(asked.model_copy(update={"what_if": "int4"}), allowed)


def test_a_plan_reads_one_linear_map_and_no_block(checkpoint: Path, settings: Settings) -> None:
    opened = open_inputs(request(checkpoint), settings).checkpoint
    before = opened.bytes_read
    finding = foretold(opened, None)
    shape = next(m.shape for m in opened.architecture.linear_maps(1) if m.name in finding.why)
    assert opened.bytes_read - before == 4 * shape[0] * shape[1] < opened.part_bytes[1] / 4
    assert finding.weights.scheme.full


def test_sequences_beyond_a_table_of_positions_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    """They would end as an index out of range on a worker, and on a GPU take its process along."""
    random_model("gpt2", n_positions=12).save_pretrained(tmp_path / "model")
    settings = Settings(allow=[tmp_path.as_uri()], state_dir=tmp_path)
    with pytest.raises(CalibrationError, match="a table of 12 positions") as caught:
        plan_request(request(tmp_path / "model"), settings)
    assert (caught.value.slug, caught.value.pointer) == (
        "calibration-sequence-too-long",
        "/calibration/sequence_length",
    )
