"""What cannot be audited ends as `failed`, once, with a problem that names the place and says what to do."""

import json
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.request import AuditOptions, AuditRequest, Calibration, Preset
from peelbound.workers.quantisers.quantise import quantise
from peelbound.workers.quantisers.scheme import Scheme
from tests import packers
from tests.integration.controller.conftest import Inputs, Running, ternary_model
from tests.integration.controller.harness import SPLITS, aged, save_documents, save_model
from tests.tiny_models import tiny_config
from tests.waiting import until

INDEX = "model.safetensors.index.json"


def copied(inputs: Inputs, name: str) -> Path:
    return Path(shutil.copytree(inputs.model, inputs.directory / name))


def with_nan(inputs: Inputs, name: str = "nan") -> AuditRequest:
    model, tensor = copied(inputs, name), "model.layers.1.mlp.up_proj.weight"
    shard = model / json.loads((model / INDEX).read_text())["weight_map"][tensor]
    tensors = load_file(shard)
    tensors[tensor][3, 5] = torch.nan
    save_file(tensors, shard, {"format": "pt"})
    return inputs.request(aged(model))


def without_a_shard(inputs: Inputs) -> AuditRequest:
    model = copied(inputs, "shard-missing")
    (model / "model-00002-of-00005.safetensors").unlink()
    return inputs.request(model)


def pickle_only(inputs: Inputs) -> AuditRequest:
    model = inputs.directory / "pickle"
    model.mkdir()
    shutil.copy(inputs.model / "config.json", model)
    torch.save({"run": shutil.rmtree}, model / "pytorch_model.bin")
    return inputs.request(model)


def an_encoder(inputs: Inputs) -> AuditRequest:
    model = copied(inputs, "encoder")
    (model / "config.json").write_text(json.dumps(tiny_config("bert")))
    return inputs.request(model)


def other_vocabulary(inputs: Inputs) -> AuditRequest:
    documents = save_documents(inputs.directory / "other.jsonl", vocabulary=5000)
    return inputs.request(calibration=Calibration(uri=str(documents), **SPLITS))


def other_vocabulary_inline(inputs: Inputs) -> AuditRequest:
    return inputs.request(calibration=Calibration(token_ids=[[5, 6, 7], [8, 200, 9], [10, 11, 12]], **SPLITS))


def anchors_without_the_last(inputs: Inputs) -> AuditRequest:
    return inputs.request(options=AuditOptions(maps=[[3], [1, 2]]))


def too_exhaustive(inputs: Inputs) -> AuditRequest:
    model = save_model(inputs.directory / "deep", num_hidden_layers=7)
    return inputs.request(model, preset=Preset.EXHAUSTIVE)


def checkpoint_elsewhere(inputs: Inputs) -> AuditRequest:
    return inputs.request("/etc")


def fenced(inputs: Inputs) -> AuditRequest:
    return inputs.request()  # others may read it


def calibration_elsewhere(inputs: Inputs) -> AuditRequest:
    link = inputs.directory / "link.jsonl"
    link.symlink_to("/etc/hostname")
    return inputs.request(calibration=Calibration(uri=str(link), **SPLITS))


def wrong_credentials(inputs: Inputs) -> AuditRequest:
    return inputs.request("s3://models/run-7")


def packed_with_nan(inputs: Inputs) -> AuditRequest:
    """BitNet's layout, one scale of block 2 being NaN."""
    model = ternary_model(inputs, "nan-scale")
    config, index = json.loads((model / "config.json").read_text()), json.loads((model / INDEX).read_text())
    config["quantization_config"] = {"quant_method": "bitnet"}
    (model / "config.json").write_text(json.dumps(config))
    for tensor, file in list(index["weight_map"].items()):
        if tensor.endswith("_proj.weight"):
            tensors = load_file(model / file)
            packed, _ = packers.bitnet(tensors.pop(tensor), divides=True)
            names = {tensor.replace("weight", name): value for name, value in packed.items()}
            if tensor == "model.layers.1.mlp.up_proj.weight":
                names[f"{tensor}_scale"] = torch.tensor([torch.nan])
            save_file(tensors | names, model / file, {"format": "pt"})
            index["weight_map"] |= dict.fromkeys(names, file)
    (model / INDEX).write_text(json.dumps(index))
    return inputs.request(aged(model))


def named_against_its_weights(inputs: Inputs) -> AuditRequest:
    model = ternary_model(inputs, "contradicted")
    return inputs.request(model, options=AuditOptions(weights="int4-g32"))


def what_if_on_a_ternary_model(inputs: Inputs) -> AuditRequest:
    return inputs.request(ternary_model(inputs, "what-if-ternary"), what_if="int4")


def what_if_on_a_ternary_block(inputs: Inputs) -> AuditRequest:
    """Block 1 is dense; the third is not."""
    model, tensor = copied(inputs, "what-if-block"), "model.layers.2.mlp.up_proj.weight"
    shard = model / json.loads((model / INDEX).read_text())["weight_map"][tensor]
    tensors = load_file(shard)
    tensors[tensor] = quantise(tensors[tensor], Scheme.parse("ternary")).contiguous()
    save_file(tensors, shard, {"format": "pt"})
    return inputs.request(aged(model), what_if="int4")


def baseline_of_another_architecture(inputs: Inputs) -> AuditRequest:
    other = save_model(inputs.directory / "wider", intermediate_size=96)
    return inputs.request(ternary_model(inputs, "quantised-wider"), baseline=str(other))


def baseline_that_is_low_bit(inputs: Inputs) -> AuditRequest:
    return inputs.request(baseline=str(ternary_model(inputs, "low-bit-baseline")))


def baseline_elsewhere(inputs: Inputs) -> AuditRequest:
    return inputs.request(baseline="/etc")


def baseline_with_nan(inputs: Inputs) -> AuditRequest:
    with_nan_in_block_2 = Path(with_nan(inputs, "nan-baseline").checkpoint)
    return inputs.request(ternary_model(inputs, "quantised-nan"), baseline=str(with_nan_in_block_2))


def what_if_in_groups_that_do_not_divide(inputs: Inputs) -> AuditRequest:
    return inputs.request(what_if="int4-g24")


@dataclass(frozen=True)
class Refusal:
    """What the problem must say."""

    make: Callable[[Inputs], AuditRequest]
    slug: str
    pointer: str
    detail: str
    remedy: str


REFUSALS = [
    Refusal(with_nan, "checkpoint-not-finite", "/checkpoint", "block 2: mlp.up_proj.weight has 1 NaN", "earlier"),
    Refusal(without_a_shard, "checkpoint-shard-missing", "/checkpoint", "model-00002-of-00005.safetensors", "Copy"),
    Refusal(pickle_only, "checkpoint-pickle", "/checkpoint", "pytorch_model.bin", "safetensors"),
    Refusal(an_encoder, "model-not-decoder", "/checkpoint", "bert", "decoder"),
    Refusal(other_vocabulary, "calibration-vocabulary", "/calibration/uri", "other.jsonl:1", "tokenizer"),
    Refusal(other_vocabulary_inline, "calibration-vocabulary", "/calibration/token_ids/1", "200", "tokenizer"),
    Refusal(anchors_without_the_last, "request-anchors", "/options/maps/1", "[1, 2]", "3 is always one"),
    Refusal(too_exhaustive, "request-exhaustive", "/preset", "7 blocks", "standard"),
    Refusal(checkpoint_elsewhere, "uri-refused", "/checkpoint", "/etc", "PEELBOUND_ALLOW"),
    Refusal(fenced, "uri-refused", "/checkpoint", "not under a prefix", "PEELBOUND_ALLOW"),
    Refusal(calibration_elsewhere, "uri-refused", "/calibration/uri", "link.jsonl", "PEELBOUND_ALLOW"),
    Refusal(
        packed_with_nan, "checkpoint-not-finite", "/checkpoint", "block 2: mlp.up_proj.weight:weight_scale", "packing"
    ),
    Refusal(
        named_against_its_weights, "weights-scheme-contradicted", "/options/weights", "of block 1 is ternary", "ternary"
    ),
    Refusal(
        what_if_on_a_ternary_model, "request-what-if-low-bit", "/what_if", "the checkpoint is ternary", "before quant"
    ),
    Refusal(
        what_if_in_groups_that_do_not_divide, "weights-group-indivisible", "/what_if", "Groups of 24", "that divides"
    ),
    Refusal(
        baseline_of_another_architecture,
        "request-baseline-architecture",
        "/baseline",
        "intermediate_size is 96, not 64",
        "quantised from",
    ),
    Refusal(baseline_that_is_low_bit, "request-baseline-low-bit", "/baseline", "ternary itself", "before quantisation"),
    Refusal(baseline_elsewhere, "uri-refused", "/baseline", "/etc", "PEELBOUND_ALLOW"),
    Refusal(
        baseline_with_nan, "checkpoint-not-finite", "/baseline", "block 2: mlp.up_proj.weight has 1 NaN", "earlier"
    ),
    Refusal(wrong_credentials, "storage-denied", "/checkpoint", "403", "PEELBOUND_S3_SECRET_ACCESS_KEY"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.make.__name__)
def test_it_fails_at_once_and_says_why(refusal: Refusal, running: Running, inputs: Inputs) -> None:
    service, tenant = running.service, f"refused-{refusal.make.__name__}"
    audit = service.submit(refusal.make(inputs), tenant)
    record = service.wait(audit, tenant)
    assert record.state is AuditState.FAILED
    problem = record.problem
    assert problem is not None
    assert (problem.slug, problem.pointer) == (refusal.slug, refusal.pointer), problem
    assert refusal.detail in problem.detail
    assert refusal.remedy in problem.remedy
    assert service.states(audit, tenant) == ["queued", "running", "failed"]
    assert service.audits.manifest_key(tenant, audit) is None
    assert service.results(tenant=tenant) == {}


def test_a_block_that_is_low_bit_already_is_not_rounded_again(running: Running, inputs: Inputs) -> None:
    """It is seen when its block is rounded; by then others may be solved, and no report says anything of it."""
    service, tenant = running.service, "low-bit-block"
    record = service.wait(service.submit(what_if_on_a_ternary_block(inputs), tenant), tenant)
    problem = record.problem
    assert problem is not None
    assert (problem.slug, problem.pointer) == ("request-what-if-low-bit", "/what_if")
    assert "mlp.up_proj.weight of block 3 is ternary already" in problem.detail
    assert service.results("report", tenant) == {}


@pytest.mark.parametrize("hidden", [False, True], ids=["openly", "behind an unchanged time stamp"])
def test_a_checkpoint_that_changes_while_it_is_read(hidden: bool, running: Running, inputs: Inputs) -> None:
    service, tenant = running.service, f"changing-{hidden}"
    model = aged(copied(inputs, tenant))
    shard = model / "model-00003-of-00005.safetensors"
    audit = service.submit(inputs.request(model), tenant)
    until(lambda: service.results("trained", tenant))
    with shard.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    if hidden:
        aged(model)
    record = service.wait(audit, tenant)
    assert record.state is AuditState.FAILED
    assert record.problem is not None
    assert (record.problem.slug, record.problem.pointer) == ("checkpoint-changed", "/checkpoint")
    assert ("block" if hidden else shard.name) in record.problem.detail
    assert record.problem.remedy
    assert service.audits.manifest_key(tenant, audit) is None
    assert service.results("report", tenant) == {}


def test_a_baseline_that_changes_while_it_is_read(running: Running, inputs: Inputs) -> None:
    """It is read twice: by itself, and beside the audited checkpoint."""
    service, tenant = running.service, "changing-baseline"
    baseline = aged(copied(inputs, tenant))
    request = inputs.request(ternary_model(inputs, "changing-quantised"), baseline=str(baseline), preset="quick")
    audit = service.submit(request, tenant)
    until(lambda: service.results("baseline", tenant))
    with (baseline / "model-00003-of-00005.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    aged(baseline)
    record = service.wait(audit, tenant)
    assert record.problem is not None
    assert (record.problem.slug, record.problem.pointer) == ("checkpoint-changed", "/baseline")
    assert service.results("report", tenant) == {}


def test_a_full_disk_fails_after_its_attempts_and_leaves_nothing_half_written(
    running: Running, inputs: Inputs, reference: bytes
) -> None:
    """The workers may write no file as long as a solution."""
    service, tenant, workers = running.service, "full", running.controller.workers()
    before = [worker.rlimit(resource.RLIMIT_FSIZE) for worker in workers]
    for worker, (_, hard) in zip(workers, before, strict=True):
        worker.rlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        audit = service.submit(inputs.request(), tenant)
        record = service.wait(audit, tenant)
    finally:
        for worker, limit in zip(workers, before, strict=True):
            worker.rlimit(resource.RLIMIT_FSIZE, limit)
    assert (record.state, record.attempt) == (AuditState.FAILED, 3)
    assert record.problem is not None
    assert record.problem.slug == "storage-full"
    assert "PEELBOUND_STORE_URL" in record.problem.remedy
    assert service.states(audit, tenant) == ["queued", *["running", "queued"] * 2, "running", "failed"]
    assert service.results("state", tenant) == service.results("corrected", tenant) == {}
    staging = service.settings.state_dir / "objects" / ".staging"
    until(lambda: list(staging.iterdir()) == [])
    assert service.succeeded(service.submit(inputs.request(), tenant), tenant) == reference
