"""A Ray that fails, or lacks what the workers ask for, fails an attempt and no more: the next one gets a fresh Ray."""

import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray
from ray.exceptions import RaySystemError

from peelbound.service.controller.cluster import RayFailed, start_ray
from peelbound.service.controller.loop import Controller
from peelbound.service.controller.pool import Pool, start_pool
from peelbound.service.database.engine import make_engine
from peelbound.service.schemas.record import AuditRecord
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.storage.directory import DirectoryStore
from peelbound.workers.errors import Cancelled
from tests.integration.controller.conftest import Inputs
from tests.integration.controller.harness import a_service


def test_workers_that_the_cluster_has_no_room_for_are_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(workers=1, worker_gpus=4096, worker_start_seconds=0.5)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # somebody else's cluster: ours is started all the same
    start_ray(settings)
    try:
        # Ray has started nothing in advance.
        assert not [p for p in psutil.Process().children(recursive=True) if p.cmdline()[:1] == ["ray::IDLE"]]
        pool = Pool(settings, DirectoryStore(tmp_path), lambda: None)
        with pytest.raises(RayFailed, match=r"1 of 1 workers .* 4096 GPUs; the cluster offers 1 CPUs") as caught:
            pool.start(8)
        assert caught.value.slug == "workers-unavailable"
        assert "PEELBOUND_WORKER_GPUS" in caught.value.remedy

        def give_up() -> None:
            raise Cancelled("The audit was cancelled.")

        pool.check = give_up
        with pytest.raises(Cancelled):
            pool.start(8)
    finally:
        ray.shutdown()


def test_an_address_without_a_cluster_says_so(tmp_path: Path) -> None:
    nowhere = Settings(ray_address="127.0.0.1:1", worker_start_seconds=0.1)
    with pytest.raises(RayFailed, match=r"127\.0\.0\.1:1: .* asked for 0\.1 s") as caught:
        start_pool(nowhere, DirectoryStore(tmp_path), lambda: None)
    assert "PEELBOUND_RAY_ADDRESS" in caught.value.remedy


class NoWorkers(Pool):
    """A pool whose cluster starts nothing."""

    def start(self, grain: int, compiler: str | None = None) -> None:
        raise RayFailed("The cluster is gone.")


class DeadPool(Pool):
    """A pool whose Ray is gone when it is told to stop."""

    def abandon(self) -> None:
        raise RaySystemError("The cluster is gone.")


def ended(pool: type[Pool], settings: Settings, checkpoint: Path, inputs: Inputs) -> tuple[AuditRecord, int]:
    """An audit's end under a controller of such pools, and how many of them it started."""
    started = []

    def start(settings: Settings, store: ObjectStore, check: Callable[[], None]) -> Pool:
        started.append(settings)
        return pool(settings, store, check)

    stop = threading.Event()
    engine = make_engine(settings.resolved_database_url)
    with a_service(settings) as service:
        controller = threading.Thread(target=Controller(settings, engine, service.store, stop, start).run)
        controller.start()
        try:
            return service.run(inputs.request(checkpoint)), len(started)
        finally:
            stop.set()
            controller.join()
            engine.dispose()


@pytest.fixture
def settings(inputs: Inputs, tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path, allow=[str(inputs.directory)], workers=1, max_attempts=3, retry_seconds=0, poll_seconds=0.01
    )


def test_each_attempt_after_a_failure_of_ray_gets_a_fresh_one(settings: Settings, inputs: Inputs) -> None:
    record, started = ended(NoWorkers, settings, inputs.model, inputs)
    assert record.problem is not None
    assert (record.problem.slug, record.attempt, started) == ("ray-error", 3, 3)


def test_a_dead_ray_does_not_hide_what_ended_the_audit(settings: Settings, inputs: Inputs) -> None:
    record, _ = ended(DeadPool, settings, inputs.directory / "absent", inputs)
    assert record.problem is not None
    assert record.problem.slug.startswith("checkpoint-")
    assert record.attempt == 1
