"""Audits that ask what bits cost: before quantisation (`what_if`), and after it (`baseline`)."""

import os
import shutil
from pathlib import Path

import pytest

from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.report import Report
from peelbound.service.schemas.request import AuditRequest
from tests.integration.controller.conftest import WHAT_IF, Inputs, Running
from tests.integration.controller.harness import aged


def test_it_says_block_by_block_what_rounding_costs(rounded: bytes) -> None:
    report = Report.model_validate_json(rounded)
    what_if = report.what_if
    assert what_if is not None
    assert what_if.scheme == WHAT_IF["what_if"]
    assert [block.index for block in what_if.blocks] == [1, 2, 3]
    assert [len(mix.kept) for mix in what_if.mixes] == [0, 1, 2]
    assert all(block.cost.simultaneous for block in what_if.blocks)
    dearest = max(what_if.blocks, key=lambda block: block.select_cost)
    assert what_if.mixes[1].kept == [dearest.index]
    assert report.low_bit is None
    assert "what_if" in report.settings["plan"]


def test_two_blocks_kept_is_the_third_block_rounded(rounded: bytes) -> None:
    """The mix that keeps all but one is the network in which that one is rounded alone: two ways to one number."""
    what_if = Report.model_validate_json(rounded).what_if
    assert what_if is not None
    (left,) = {1, 2, 3} - set(what_if.mixes[-1].kept)
    assert what_if.mixes[-1].cost.estimate == what_if.blocks[left - 1].cost.estimate


def test_the_blocks_are_walked_as_often_as_without_the_question(running: Running, rounding_audit: str) -> None:
    assert running.service.wait(rounding_audit, "rounded").state is AuditState.SUCCEEDED
    assert running.service.timings(rounding_audit, "rounded")["walks"] == 4


def test_beside_the_baseline_its_loss_is_that_of_its_own_audit(beside_baseline: bytes, rounded: bytes) -> None:
    """The model that `rounded` audits is the baseline of the other: read through other embeddings it would differ."""
    report, of_baseline = (Report.model_validate_json(data) for data in (beside_baseline, rounded))
    assert report.baseline is not None
    assert report.baseline.sha256 == of_baseline.checkpoint.sha256
    assert report.baseline.loss == of_baseline.trained.check.estimate
    lost = report.trained.check.estimate - of_baseline.trained.check.estimate
    assert report.baseline.damage.estimate == pytest.approx(lost)
    assert [block.index for block in report.baseline.blocks] == [1, 2, 3]
    # The baseline's block stands in the place of the audited one; that nothing stands there is what skipping costs.
    for put_in, own in zip(report.baseline.blocks, report.blocks, strict=True):
        assert put_in.damage.estimate != pytest.approx(-own.skip_cost.estimate)
    assert report.checkpoint.weights is not None
    assert report.checkpoint.weights.scheme == "ternary"


def test_the_baseline_is_read_by_itself_and_once_more_beside_the_audited_checkpoint(
    running: Running, beside_audit: str, beside_baseline: bytes
) -> None:
    assert running.service.succeeded(beside_audit, "baseline") == beside_baseline
    timings = running.service.timings(beside_audit, "baseline")
    assert (timings["walks"], timings["baseline"]["walks"]) == (4, 2)
    assert timings["baseline"]["bytes_read"] < 2.5 * timings["baseline"]["checkpoint_bytes"]


def test_the_baseline_is_known_by_its_content(running: Running, inputs: Inputs, beside: AuditRequest) -> None:
    """One whose last byte is another is another baseline, although its name is the same."""
    service = running.service
    baseline = aged(Path(shutil.copytree(inputs.model, inputs.directory / "baseline")))
    request = beside.model_copy(update={"baseline": str(baseline)})
    first = Report.model_validate_json(service.succeeded(service.submit(request, "content"), "content"))
    shard = baseline / "model-00003-of-00005.safetensors"
    with shard.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    os.utime(shard, (1_600_000_000, 1_600_000_000))
    second = Report.model_validate_json(service.succeeded(service.submit(request, "content"), "content"))
    assert first.baseline is not None
    assert second.baseline is not None
    assert first.baseline.sha256 != second.baseline.sha256
    assert first.trained == second.trained
