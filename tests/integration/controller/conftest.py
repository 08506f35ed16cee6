"""What the controller's tests share: a model, documents, and a service with a controller of two workers.

Those in `apart/` may run in another process: they get the reports to compare with, and do without the service.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from pydantic import SecretStr
from safetensors.torch import load_file, save_file

from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings
from peelbound.workers.quantisers.quantise import quantise
from peelbound.workers.quantisers.scheme import Scheme
from tests.integration.controller.collector import Collector, collecting_spans
from tests.integration.controller.harness import (
    ControllerProcess,
    Service,
    a_controller,
    a_service,
    aged,
    request_for,
    save_documents,
    save_model,
)
from tests.s3_server import S3Server, free_ports, s3_server

__all__ = ["s3_server"]


@dataclass
class Inputs:
    """What audits read, and the audit that most tests ask for."""

    directory: Path
    model: Path
    documents: Path

    def request(self, checkpoint: Path | str | None = None, **changes: Any) -> AuditRequest:
        """A standard audit, but for these fields."""
        return request_for(checkpoint or self.model, self.documents, **changes)


def ternary_model(inputs: Inputs, name: str) -> Path:
    """The model with every linear map of its blocks made ternary."""
    model = Path(shutil.copytree(inputs.model, inputs.directory / name))
    for shard in model.glob("*.safetensors"):
        tensors = load_file(shard)
        for tensor in tensors:
            if tensor.endswith("_proj.weight"):
                tensors[tensor] = quantise(tensors[tensor], Scheme.parse("ternary")).contiguous()
        save_file(tensors, shard, {"format": "pt"})
    return aged(model)


def half_silent_model(inputs: Inputs, name: str) -> Path:
    """The model whose block 2, of three the one with the median influence, has an attention that adds nothing."""
    model = Path(shutil.copytree(inputs.model, inputs.directory / name))
    for shard in model.glob("*.safetensors"):
        tensors = load_file(shard)
        for tensor in tensors:
            if tensor.endswith(("o_proj.weight", "down_proj.weight")):
                strength = {"0": 6.0, "1": 2.0, "2": 0.3}[tensor.split(".")[2]]
                silent = tensor == "model.layers.1.self_attn.o_proj.weight"
                tensors[tensor] = tensors[tensor] * (0.0 if silent else strength)
        save_file(tensors, shard, {"format": "pt"})
    return aged(model)


@dataclass
class Running:
    """A service and its one controller."""

    service: Service
    controller: ControllerProcess


@dataclass
class Shared:
    """A directory of all processes that share the tests, for what one of them makes and the others use."""

    directory: Path

    def once(self, name: str, make: Callable[[], bytes]) -> bytes:
        """What the first process that asks makes, while others wait for it."""
        file = self.directory / name
        with FileLock(f"{file}.lock"):
            if not file.exists():
                file.write_bytes(make())
            return file.read_bytes()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Shared:
    directory = tmp_path_factory.getbasetemp()
    return Shared(directory if worker_id == "master" else directory.parent)


@pytest.fixture(scope="session")
def inputs(shared: Shared) -> Inputs:
    """Made once: a report names where its checkpoint lies."""
    directory = shared.directory / "inputs"
    model, documents = directory / "model", directory / "documents.jsonl"

    def make() -> bytes:
        directory.mkdir()
        save_model(model)
        return save_documents(documents).name.encode()

    shared.once("inputs-made", make)
    return Inputs(directory, model, documents)


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where traces of the service go."""
    with collecting_spans() as collector:
        yield collector


@pytest.fixture(scope="session")
def running(
    inputs: Inputs, s3_server: S3Server, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Two workers on SQLite and a directory, with traces, and with a wrong key to an S3 server.

    Tests keep apart by tenants, whose results are their own.
    """
    directory = tmp_path_factory.mktemp("service")
    settings = Settings(
        state_dir=directory / "state",
        workers=2,
        allow=[str(inputs.directory), "s3://models"],
        tenant_allow={"refused-fenced": [str(inputs.directory / "other")]},
        poll_seconds=0.05,
        retry_seconds=0.1,
        webhook_allow=["127.0.0.1"],
        s3_endpoint_url=s3_server.endpoint_url,
        s3_access_key_id=SecretStr(s3_server.access_key_id),
        s3_secret_access_key=SecretStr("wrong"),
        controller_metrics_port=free_ports(1)[0],
        traces=True,
    )
    log, variables = directory / "log", collector.environment()
    with a_service(settings) as service, a_controller(settings, log, variables=variables) as controller:
        yield Running(service, controller)


WHAT_IF: dict[str, Any] = {"what_if": "int3-g16+a8", "preset": "quick"}


@pytest.fixture(scope="session")
def beside(shared: Shared, inputs: Inputs) -> AuditRequest:
    """A quick audit of a ternary model beside the one before quantisation."""
    made = shared.once("quantised-made", lambda: ternary_model(inputs, "quantised").name.encode()).decode()
    return inputs.request(inputs.directory / made, baseline=str(inputs.model), preset="quick")


@pytest.fixture(scope="session")
def beside_audit(running: Running, beside: AuditRequest) -> str:
    """It, of the tenant `baseline`."""
    return running.service.submit(beside, "baseline")


@pytest.fixture(scope="session")
def beside_baseline(request: pytest.FixtureRequest, shared: Shared) -> bytes:
    """Its report, by two workers."""
    return shared.once("beside-baseline", lambda: _report(request, "beside_audit", "baseline"))


@pytest.fixture(scope="session")
def rounding_audit(running: Running, inputs: Inputs) -> str:
    """A quick audit that asks what rounding would cost, of the tenant `rounded`."""
    return running.service.submit(inputs.request(**WHAT_IF), "rounded")


@pytest.fixture(scope="session")
def rounded(request: pytest.FixtureRequest, shared: Shared) -> bytes:
    """Its report, by two workers."""
    return shared.once("rounded", lambda: _report(request, "rounding_audit", "rounded"))


def _report(request: pytest.FixtureRequest, audit: str, tenant: str) -> bytes:
    """The report of the audit that a fixture has submitted, which is asked for only by who makes it."""
    running: Running = request.getfixturevalue("running")
    return running.service.succeeded(request.getfixturevalue(audit), tenant)


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest, shared: Shared, inputs: Inputs) -> bytes:
    """The report of the standard audit, as two undisturbed workers made it."""
    return shared.once("reference", lambda: _undisturbed(request, inputs.request(), "reference"))


@pytest.fixture(scope="session")
def kept_reference(running: Running, inputs: Inputs, reference: bytes) -> bytes:
    """The same, and this process's service has carried the audit out itself, for the tenant `reference`."""
    assert running.service.succeeded(running.service.submit(inputs.request(), "reference"), "reference") == reference
    return reference


@pytest.fixture(scope="session")
def quick_reference(request: pytest.FixtureRequest, shared: Shared, inputs: Inputs) -> bytes:
    """The same of a quick audit, for tests that ask no more than whether one is carried out rightly."""
    quick = inputs.request(preset="quick")
    return shared.once("quick-reference", lambda: _undisturbed(request, quick, "quick-reference"))


def _undisturbed(request: pytest.FixtureRequest, audit: AuditRequest, tenant: str) -> bytes:
    running: Running = request.getfixturevalue("running")
    return running.service.succeeded(running.service.submit(audit, tenant), tenant)
