"""Workers of different memories on a real Ray: what does not fit moves, and the report has the same bytes.

No GPU is needed: a worker's limit is injected where states are carried to its device, and raises torch's own error.
"""

import itertools
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import ray
import torch

from peelbound.service.controller import audit, members
from peelbound.service.controller.audit import Audit
from peelbound.service.controller.cluster import start_ray
from peelbound.service.controller.placement import Placement
from peelbound.service.controller.pool import Pool
from peelbound.service.schemas.record import Progress
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings
from peelbound.service.storage.directory import DirectoryStore
from peelbound.workers import residency
from peelbound.workers.actor import Worker
from peelbound.workers.errors import DoesNotFit
from tests.tiny_models import random_model

LENGTH, WIDTH, GRAIN, FIT = 16, 32, 2, 8
STATES = 4 * LENGTH * WIDTH * FIT
"""Bytes of a state of fit. A solve has three of them."""
AMPLE, SOME, LITTLE = 100 * STATES, 2.5 * STATES, 0.3 * STATES
"""Room for everything; not for a solve's states at once, but for a few grains; for a grain of one, not of two."""


class Limited:
    """A device of so many bytes, as far as states are carried there."""

    name = "an injected limit"

    def __init__(self, size: float) -> None:
        self.size, self.taken, self.failures = int(size), 0, 0

    def room(self) -> int:
        return self.size

    def held(self) -> int:
        return self.taken

    def free(self) -> None:
        return

    def carry(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.taken + tensor.nbytes > self.size:
            self.failures += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {tensor.nbytes} bytes. GPU 0 has …")
        self.taken += tensor.nbytes
        weakref.finalize(tensor, self._gone, tensor.nbytes)
        return tensor

    def _gone(self, size: int) -> None:
        self.taken -= size


class LimitedWorker(Worker):
    """A worker whose device is small."""

    def __init__(self, size: float, *args: Any) -> None:
        super().__init__(*args)
        self.memory = device = Limited(size)
        upload = residency.upload
        residency.upload = lambda array, where: device.carry(upload(array, where))

    def story(self) -> tuple[int, dict[str, int]]:
        """How often memory ran out, and with how many grains resident tasks fit since."""
        return self.memory.failures, dict(self._fits)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    random_model("llama").save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def settings(checkpoint: Path) -> Iterator[Settings]:
    """With a Ray of two workers."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[attr-defined] # not in its stubs
    chosen = Settings(allow=[str(checkpoint)], workers=2, cores=2)
    start_ray(chosen)
    yield chosen
    ray.shutdown()


def request(checkpoint: Path) -> AuditRequest:
    draw = torch.Generator().manual_seed(0)
    documents = torch.randint(3, 96, (60, 20), generator=draw).tolist()
    calibration = {"token_ids": documents, "sequence_length": LENGTH, "provenance": "unseen"}
    calibration |= {"fit_sequences": FIT, "select_sequences": 4, "check_sequences": 8}
    options = {"grain": GRAIN, "block_steps": 2, "network_steps": 4, "head_steps": 2, "positive_control": False}
    return AuditRequest.model_validate(
        {"checkpoint": str(checkpoint), "calibration": calibration, "preset": "standard", "options": options}
    )


def audited(
    settings: Settings, checkpoint: Path, store: Path, *sizes: float
) -> tuple[bytes, list[tuple[int, dict[str, int]]]]:
    """The report of workers of these sizes, and what each has to tell. The plan's formula knows nothing."""
    settings = settings.model_copy(update={"workers": len(sizes)})
    size = itertools.cycle(sizes)

    def start(store: Any, device: str, grain: int, cpus: float, gpus: float, leash: float | None) -> Any:
        remote: Any = ray.remote
        actor = remote(concurrency_groups={"control": 1})(LimitedWorker).options(num_cpus=cpus)
        return actor.remote(next(size), store, device, grain, 1.0, leash)

    def ignore(_: Progress) -> None:
        return

    with patch.object(members, "start_worker", start), patch.object(audit, "Placement", lambda *_: Placement()):
        pool = Pool(settings, DirectoryStore(store), lambda: None)
        try:
            outcome = Audit(request(checkpoint), "t", settings, DirectoryStore(store), pool, ignore).run()
            return outcome.report, [ray.get(m.actor.story.remote()) for m in pool._members.everyone]
        finally:
            pool.release()


def test_memory_decides_who_solves_what_and_not_what_comes_out(
    settings: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    expected, untroubled = audited(settings, checkpoint, tmp_path / "ample", AMPLE)
    assert untroubled == [(0, {})]

    # Fewer grains stay resident.
    report, [(failures, fits)] = audited(settings, checkpoint, tmp_path / "some", SOME)
    assert report == expected
    assert failures > 0
    assert fits["solve_corrected"] < FIT // GRAIN
    assert fits["solve_state"] == 1

    # What does not fit with one grain moves, once of each kind.
    report, [(failures, fits), (others, _)] = audited(settings, checkpoint, tmp_path / "two", LITTLE, AMPLE)
    assert report == expected
    assert (failures > 0, fits, others) == (True, {}, 0)


def test_what_fits_no_worker_ends_the_audit_with_the_bytes(
    settings: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(DoesNotFit, match="solve_state does not fit with one grain on the device") as caught:
        audited(settings, checkpoint, tmp_path, LITTLE / 8)
    assert caught.value.extra["bytes_needed"] > caught.value.extra["bytes_available"] == int(LITTLE / 8)
