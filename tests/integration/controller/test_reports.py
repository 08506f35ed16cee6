"""The same request gives the same report, to the last byte: whoever works on it, wherever things lie, and when."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from peelbound.service.schemas.report import BlockFinding, Report
from peelbound.service.schemas.request import AuditOptions, AuditRequest, Precision, Preset
from peelbound.service.settings import Settings
from tests.integration.controller.conftest import WHAT_IF, Inputs, Running, half_silent_model
from tests.integration.controller.harness import a_controller, a_service, aged, request_for
from tests.s3_server import S3Server
from tests.waiting import DEADLINE_SECONDS

FOREIGN = ("api", "service", "workers", "ray", "torch", "peelbound")


def test_the_report_holds_all_that_a_standard_audit_measures(reference: bytes) -> None:
    report = Report.model_validate_json(reference)
    assert report.calibration.splits["check"].documents >= 30
    assert len(report.blocks) == 3
    assert {network.name for network in report.networks} >= {"YES-0", "direct"}
    assert [(cell.source, cell.target) for cell in report.matrix] == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
    assert report.positive_control is not None
    assert all(block.smallest_visible_effect for block in report.blocks)
    spectra = [block.spectrum for block in report.blocks]
    assert all(s is not None and s.matrix and s.departure < 5 for s in spectra)  # nobody trained this model …
    assert BlockFinding.UNTRAINED not in {block.finding for block in report.blocks}  # … and so none stands out


def test_the_control_is_planted_in_a_block_that_is_not_accused(running: Running, inputs: Inputs) -> None:
    service, model = running.service, half_silent_model(inputs, "half-silent")
    first, second = (
        service.succeeded(service.submit(inputs.request(model), tenant), tenant) for tenant in ("silent", "silent-2")
    )
    report = Report.model_validate_json(first)
    influences = [block.block_influence for block in report.blocks]
    assert sorted(influences)[1] == influences[1]
    assert report.blocks[1].finding is BlockFinding.LAGGING
    assert report.positive_control is not None
    innocent = {block.index for block in report.blocks if block.finding is BlockFinding.SOUND}
    assert report.positive_control.block in innocent
    assert first == second


def test_a_repeated_audit_is_answered_from_what_is_kept(
    running: Running, inputs: Inputs, kept_reference: bytes
) -> None:
    service = running.service
    kept = service.results(tenant="reference")
    named = inputs.request(run="r", step=7, training_loss=5.5, labels={"a": "b"})
    for request in (inputs.request(), named):
        audit = service.submit(request, "reference")
        assert service.succeeded(audit, "reference") == kept_reference
        assert service.timings(audit, "reference")["reused"]
    assert service.results(tenant="reference") == kept


def test_a_copied_checkpoint_is_read_once_and_nothing_is_solved(
    running: Running, inputs: Inputs, kept_reference: bytes
) -> None:
    service = running.service
    kept = service.results(tenant="reference")
    copy = aged(Path(shutil.copytree(inputs.model, inputs.directory / "copy")))
    audit = service.submit(request_for(copy, inputs.documents), "reference")
    assert but_request(service.succeeded(audit, "reference")) == but_request(kept_reference)
    timings = service.timings(audit, "reference")
    assert (timings["reused"], timings["walks"]) == (False, 1)
    progress = service.record(audit, "reference").progress
    assert progress is not None
    assert progress.problems_done == progress.problems_cached > 0
    later = service.results(tenant="reference")
    assert later.keys() - kept.keys() == {name for name in later if name.startswith("report/")} - kept.keys()
    assert {name: later[name] for name in kept} == kept


@pytest.mark.parametrize("kind", ["head", "state"])
def test_solutions_that_were_lost_before_check_met_them_are_solved_again(
    kind: str, running: Running, inputs: Inputs, reference: bytes
) -> None:
    service, tenant = running.service, f"lost-{kind}"
    assert service.succeeded(service.submit(inputs.request(), tenant), tenant) == reference
    results = service.settings.state_dir / "objects" / "tenants" / tenant / "results"
    lost = sorted((results / kind).rglob("*.safetensors.object"))
    assert len(lost) > 1
    for file in (*lost, *(results / "report").rglob("*.object"), *(results / "check-networks").rglob("*.object")):
        file.unlink()
    audit = service.submit(inputs.request(seed=0, labels={"again": "yes"}), tenant)
    assert service.succeeded(audit, tenant) == reference
    assert service.record(audit, tenant).attempt == 1
    assert all(file.exists() for file in lost)


def test_another_precision_shares_no_result_and_changes_little(
    running: Running, inputs: Inputs, reference: bytes
) -> None:
    options = AuditOptions(block_steps=3, network_steps=6, head_steps=4, grain=4, precision=Precision.BFLOAT16)
    audit = running.service.submit(inputs.request(options=options, preset=Preset.QUICK), "reference")
    found = Report.model_validate_json(running.service.succeeded(audit, "reference"))
    progress = running.service.record(audit, "reference").progress
    assert progress is not None
    assert progress.problems_done > progress.problems_cached == 0
    assert found.settings["plan"]["arithmetic"] == {"precision": "bfloat16", "compile": False}
    plain = Report.model_validate_json(reference)
    assert found.trained.check.estimate != plain.trained.check.estimate
    assert found.trained.check.estimate == pytest.approx(plain.trained.check.estimate, rel=1e-3)
    for one, other in zip(found.blocks, plain.blocks, strict=True):
        assert one.block_influence == pytest.approx(other.block_influence, rel=0.05)


@pytest.fixture(scope="module")
def on_s3(inputs: Inputs, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A worker that keeps its results on S3 and may read the same inputs there and in the directory.

    The controller runs in a user's directory, whose modules are named like ours and like those that we import.
    """
    directory, bucket = tmp_path_factory.mktemp("s3-service"), s3_server.new_bucket()
    user = directory / "user"
    for name in FOREIGN:
        (user / name).mkdir(parents=True)
        (user / name / "__init__.py").write_text(f"raise ImportError('the {name} of the user was imported')\n")
    settings = Settings(
        state_dir=directory / "state",
        store_url=f"s3://{bucket}/results",
        workers=1,
        allow=[str(inputs.directory), f"s3://{bucket}/inputs"],
        s3_endpoint_url=s3_server.endpoint_url,
        s3_access_key_id=SecretStr(s3_server.access_key_id),
        s3_secret_access_key=SecretStr(s3_server.secret_access_key),
    )
    client = s3_server.access().client()
    for file in inputs.model.iterdir():
        client.put_object(Bucket=bucket, Key=f"inputs/model/{file.name}", Body=file.read_bytes())
    client.put_object(Bucket=bucket, Key="inputs/documents.jsonl", Body=inputs.documents.read_bytes())
    imports = [sys.executable, "-c", "import peelbound"]
    would = subprocess.run(imports, cwd=user, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert "the peelbound of the user was imported" in would.stderr
    with a_service(settings) as service, a_controller(settings, directory / "log", cwd=user) as controller:
        yield Running(service, controller)


def test_one_worker_with_a_store_on_s3_among_foreign_folders_gives_the_same_bytes(
    on_s3: Running, inputs: Inputs, reference: bytes, rounded: bytes, beside: AuditRequest, beside_baseline: bytes
) -> None:
    assert on_s3.service.succeeded(on_s3.service.submit(inputs.request())) == reference
    assert on_s3.service.succeeded(on_s3.service.submit(inputs.request(**WHAT_IF))) == rounded
    assert on_s3.service.succeeded(on_s3.service.submit(beside)) == beside_baseline


def test_inputs_on_s3_change_nothing_but_their_names(on_s3: Running, reference: bytes) -> None:
    store = on_s3.service.settings.store_url
    inputs = f"{store.removesuffix('/results')}/inputs"
    request = request_for(f"{inputs}/model", f"{inputs}/documents.jsonl")
    report = on_s3.service.succeeded(on_s3.service.submit(request, "from-s3"), "from-s3")
    assert but_request(report) == but_request(reference)
    assert json.loads(report)["request"] == request.identity()


def but_request(report: bytes) -> dict[str, object]:
    """The report without what it repeats of the request."""
    found: dict[str, object] = json.loads(report)
    del found["request"]
    return found
