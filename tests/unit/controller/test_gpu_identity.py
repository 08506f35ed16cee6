"""Results and reports of GPUs are kept under the kind that the workers have, whatever the controller's machine has."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from peelbound.service.controller.audit import Audit
from peelbound.service.controller.digests import Digests
from peelbound.service.controller.inputs import open_inputs
from peelbound.service.plan import make_plan
from peelbound.service.schemas.request import AuditRequest, Calibration
from peelbound.service.settings import Settings
from peelbound.service.storage.directory import DirectoryStore
from tests.tiny_models import random_model


class Begun(Exception):
    """The audit found no report and went to work."""


class GpuPool:
    """Workers that say what GPU they have once they have started."""

    def __init__(self, kind: str, said: str = "") -> None:
        self.kind, self.gpu, self.started = kind, said, 0

    def start(self, grain: int, compiler: str | None) -> None:
        self.gpu, self.started = self.kind, self.started + 1

    @property
    def grain(self) -> int:
        """What dealing out the sequences asks for first."""
        raise Begun


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    random_model("llama").save_pretrained(directory)
    return directory


def audit_on(pool: GpuPool, checkpoint: Path, state: Path) -> Audit:
    rng = np.random.default_rng(0)
    calibration = Calibration(
        token_ids=[rng.integers(3, 96, 20).tolist() for _ in range(60)],
        sequence_length=16,
        fit_sequences=8,
        select_sequences=4,
        check_sequences=24,
    )
    settings = Settings(allow=[checkpoint.as_uri()], state_dir=state, worker_gpus=1)
    request = AuditRequest(checkpoint=str(checkpoint), calibration=calibration)
    return Audit(request, "me", settings, DirectoryStore(state / "objects"), pool, lambda _: None)  # type: ignore[arg-type]


def keep_report(checkpoint: Path, state: Path, kind: str) -> None:
    """As an audit on such GPUs leaves it."""
    audit = audit_on(GpuPool(kind, said=kind), checkpoint, state)
    inputs = open_inputs(audit.request, audit.settings)
    architecture = inputs.checkpoint.architecture
    plan = make_plan(audit.request, architecture.block_count, architecture.hidden_size)
    key = audit._report_key("digest", inputs, audit._environment(plan), None)
    audit.store.put(key, kind.encode(), media_type="application/json")


def outcome(pool: GpuPool, checkpoint: Path, state: Path) -> bytes | None:
    """The report that was found; None where the audit went to work."""
    with patch.object(Digests, "find", lambda _: "digest"):
        try:
            return audit_on(pool, checkpoint, state).run().report
        except Begun:
            return None


def test_the_report_of_another_gpu_is_not_taken_for_this_ones(checkpoint: Path, tmp_path: Path) -> None:
    keep_report(checkpoint, tmp_path, "A100")
    same, other = GpuPool("A100"), GpuPool("H100")
    assert outcome(same, checkpoint, tmp_path) == b"A100"
    assert outcome(other, checkpoint, tmp_path) is None
    assert (same.started, other.started) == (1, 1)


def test_where_the_workers_are_known_a_kept_report_starts_none(checkpoint: Path, tmp_path: Path) -> None:
    keep_report(checkpoint, tmp_path, "A100")
    pool = GpuPool("A100", said="A100")
    assert outcome(pool, checkpoint, tmp_path) == b"A100"
    assert pool.started == 0


def test_workers_that_turn_out_to_be_others_count_as_what_they_are(checkpoint: Path, tmp_path: Path) -> None:
    keep_report(checkpoint, tmp_path, "H100")
    assert outcome(GpuPool("H100", said="A100"), checkpoint, tmp_path) == b"H100"
