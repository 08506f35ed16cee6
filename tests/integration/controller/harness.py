"""Controllers as processes of their own, with a Ray, a database and a store of their own; the test is their user."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

from peelbound.service.database.audits import Audits
from peelbound.service.database.engine import make_engine
from peelbound.service.database.schema import migrate
from peelbound.service.schemas.record import AuditRecord, AuditState, Event
from peelbound.service.schemas.request import AuditOptions, AuditRequest, Calibration
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.storage.open import open_store
from tests.tiny_models import random_model
from tests.waiting import DEADLINE_SECONDS, until

COMMAND = [sys.executable, "-P", "-m", "peelbound.service.controller"]
LINGER_SECONDS = 30.0
"""How long what a controller started may outlive it before it is killed, when nobody asks any more."""
PATIENCE = {
    "PEELBOUND_WORKER_START_SECONDS": f"{DEADLINE_SECONDS:.0f}",
    "RAY_worker_register_timeout_seconds": f"{DEADLINE_SECONDS:.0f}",
}
"""Variables of controllers and clusters: on a busy machine a worker takes minutes to import all that it needs."""
VOCABULARY = 200
TENANT = "tests"

# What is audited


def save_model(directory: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny checkpoint in several shards, old enough that the digest of its files is remembered."""
    random_model(family, vocab_size=VOCABULARY, **changes).save_pretrained(directory, max_shard_size="40KB")
    return aged(directory)


def aged(directory: Path) -> Path:
    """The directory, its files made to look written long ago."""
    for file in directory.iterdir():
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return directory


def save_documents(file: Path, vocabulary: int = VOCABULARY) -> Path:
    """Calibration documents as token ids, enough of them that verdicts are tested."""
    draw = random.Random(0)
    lines = [{"token_ids": [draw.randrange(3, vocabulary) for _ in range(draw.randrange(20, 60))]} for _ in range(64)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


SPLITS: dict[str, Any] = {"sequence_length": 32, "fit_sequences": 16, "select_sequences": 8, "check_sequences": 32}


LONG_SOLVES = AuditOptions(block_steps=10_000, matrix_band=0, positive_control=False, grain=4)
"""Block references that would take many minutes."""


def request_for(checkpoint: Path | str, documents: Path | str, **changes: Any) -> AuditRequest:
    """A standard audit with few steps: networks, matrix, positive control, a few seconds of work."""
    request: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "calibration": Calibration(uri=str(documents), **SPLITS),
        "options": AuditOptions(block_steps=3, network_steps=6, head_steps=4, grain=4),
    }
    return AuditRequest(**(request | changes))


# Who is asked


@dataclass
class Service:
    """A service as its users and its operator see it, without controllers."""

    settings: Settings
    audits: Audits
    store: ObjectStore

    def submit(self, request: AuditRequest, tenant: str = TENANT) -> str:
        """Queue an audit past the API's own checks; its id."""
        return self.audits.submit(tenant, request, None)[0].id

    def record(self, audit: str, tenant: str = TENANT) -> AuditRecord:
        """The audit now."""
        return self.audits.get(tenant, audit)

    def wait(self, audit: str, tenant: str = TENANT) -> AuditRecord:
        """The audit once it has ended."""
        until(lambda: self.audits.state(tenant, audit)[0].ended)
        return self.record(audit, tenant)

    def run(self, request: AuditRequest, tenant: str = TENANT) -> AuditRecord:
        """The audit, submitted and ended."""
        return self.wait(self.submit(request, tenant), tenant)

    def succeeded(self, audit: str, tenant: str = TENANT) -> bytes:
        """The report's bytes of an audit that must succeed."""
        record = self.wait(audit, tenant)
        assert record.state is AuditState.SUCCEEDED, record.problem
        return self.artifact(audit, "report.json", tenant)

    def artifact(self, audit: str, name: str, tenant: str = TENANT) -> bytes:
        """A published file of an audit, found as anybody would: through its manifest."""
        key = self.audits.manifest_key(tenant, audit)
        assert key is not None
        (entry,) = [a for a in json.loads(self.store.get(key))["artifacts"] if a["name"] == name]
        data = self.store.get(entry["key"])
        assert len(data) == entry["bytes"]
        return data

    def timings(self, audit: str, tenant: str = TENANT) -> dict[str, Any]:
        """How the audit went."""
        found: dict[str, Any] = json.loads(self.artifact(audit, "timings.json", tenant))
        return found

    def events(self, audit: str, tenant: str = TENANT) -> list[Event]:
        """All its events, numbered without a gap."""
        events = self.audits.events(tenant, audit, limit=10_000)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        return events

    def states(self, audit: str, tenant: str = TENANT) -> list[str]:
        """The states that it went through."""
        return [event.data["state"] for event in self.events(audit, tenant) if "state" in event.data]

    def results(self, kind: str = "", tenant: str = TENANT) -> dict[str, tuple[int, int]]:
        """Objects of one kind in a directory store: what tells when each was written (time and inode), by name."""
        root = self.settings.state_dir / "objects" / "tenants" / tenant / "results" / kind
        return {str(f.relative_to(root)): (f.stat().st_mtime_ns, f.stat().st_ino) for f in root.rglob("*.object")}

    def half_solved(self, tenant: str = TENANT) -> bool:
        """Whether an audit is in the middle of its work: a third of its problems are solved (two objects each)."""
        return len(self.results("corrected", tenant)) + len(self.results("state", tenant)) >= 14


@contextmanager
def a_service(settings: Settings) -> Iterator[Service]:
    """The service that these settings describe, its database migrated."""
    engine = make_engine(settings.resolved_database_url)
    migrate(engine)
    try:
        yield Service(settings, Audits(engine), open_store(settings))
    finally:
        engine.dispose()


# Who answers


@dataclass
class ControllerProcess:
    """A controller, its process and the processes below it."""

    process: "subprocess.Popen[bytes]"
    log: Path
    metrics_port: int | None = None
    orphans: list[psutil.Process] = field(default_factory=list)
    """Who was below it when a test killed it: Ray's own processes take a minute to end themselves."""

    @property
    def pid(self) -> int:
        """Of the controller itself."""
        return self.process.pid

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text()

    def metrics(self) -> dict[tuple[str, ...], float]:
        """What Prometheus reads: values by name and the values of the labels."""
        told = httpx2.get(
            f"http://127.0.0.1:{self.metrics_port}/metrics", trust_env=False, timeout=DEADLINE_SECONDS
        ).text
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(told)
            for sample in family.samples
        }

    def itself(self) -> psutil.Process:
        """The controller's process."""
        return psutil.Process(self.pid)

    def family(self) -> list[psutil.Process]:
        """The processes below it: Ray's own, and the workers."""
        return self.itself().children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        """The pool's processes."""
        return [p for p in self.family() if _title(p).startswith("ray::Worker")]

    def kill(self) -> None:
        """SIGKILL to the controller alone."""
        self.orphans = self.family()
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def gone(process: psutil.Process) -> bool:
    """Whether the process has ended; a zombie only waits for somebody to take notice."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def a_controller(
    settings: Settings, log: Path, cwd: Path | None = None, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[ControllerProcess]:
    """A controller of these settings, with further variables, ended on leaving with everything below it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PEELBOUND_")}
    environment |= settings.environment() | PATIENCE | variables
    with log.open("ab") as output:
        process = subprocess.Popen(COMMAND, env=environment, cwd=cwd or log.parent, stdout=output, stderr=output)
    controller = ControllerProcess(process, log, settings.controller_metrics_port)
    try:
        yield controller
    finally:
        for orphan in controller.orphans:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()
        if process.poll() is None:
            family = controller.family()
            try:
                controller.terminate()
            finally:
                process.kill()
                for left in psutil.wait_procs(family, timeout=LINGER_SECONDS)[1]:
                    left.kill()
