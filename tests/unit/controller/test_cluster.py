"""How a shared cluster is divided, and how many workers it holds."""

import os
from pathlib import Path
from typing import Any

import pytest

from peelbound.service.controller import cluster
from peelbound.service.controller.cluster import WORKER_CPUS, fair_share, fitting, own_workers, start_ray
from peelbound.service.controller.pool import Pool
from peelbound.service.settings import Settings
from peelbound.service.storage.directory import DirectoryStore
from peelbound.workers.threads import THREADS


@pytest.mark.parametrize(
    ("room", "at_work", "expected"),
    [
        (8, {}, 8),
        (8, {"mine": 1}, 8),
        (8, {"mine": 1, "other": 1}, 4),
        (8, {"mine": 1, "other": 7}, 4),
        (8, {"mine": 2, "other": 1}, 2),
        (8, {"other": 1}, 4),
        (3, {"mine": 1, "other": 1}, 2),
        (1, {"mine": 3, "other": 3}, 1),
        (0, {"mine": 1}, 1),
        (100, {"mine": 1}, 16),
    ],
)
def test_tenants_share_evenly_then_their_audits(room: int, at_work: dict[str, int], expected: int) -> None:
    assert fair_share(room, at_work, "mine", 16) == expected


@pytest.mark.parametrize(
    ("resources", "gpus", "expected"),
    [
        ({"CPU": 3.0}, 0.0, 3),
        ({"CPU": 8.0, "GPU": 2.0}, 1.0, 2),
        ({"CPU": 8.0, "GPU": 2.0}, 0.5, 4),
        ({"CPU": 8.0, "GPU": 2.0}, 0.6, 2),  # one on each: no fraction spans two devices
        ({"CPU": 8.0, "GPU": 4.0}, 2.0, 2),
        ({"CPU": 1.0, "GPU": 4.0}, 1.0, 1),
        ({"CPU": 8.0}, 1.0, 0),
        ({}, 0.0, 0),
    ],
)
def test_a_node_holds_as_many_workers_as_its_devices_allow(
    resources: dict[str, float], gpus: float, expected: int
) -> None:
    assert fitting(resources, gpus) == expected


@pytest.mark.parametrize(
    ("workers", "cores", "expected"), [(2, 8, 2), (8, 2, 2), (8, 1, 1), (3, 3, 3)], ids=lambda value: str(value)
)
def test_a_ray_of_our_own_never_has_more_threads_than_cores(
    workers: int, cores: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(cluster.ray, "init", lambda **given: told.update(given))
    settings = Settings(workers=workers, cores=cores)
    start_ray(settings)
    pool = Pool(settings, DirectoryStore(tmp_path), lambda: None)
    assert (pool.allowed(), pool.width) == (expected, expected)
    assert told["num_cpus"] == expected * THREADS <= cores
    assert WORKER_CPUS == THREADS


def test_without_a_setting_the_cores_are_those_that_the_process_may_run_on() -> None:
    assert own_workers(Settings(workers=4096)) == len(os.sched_getaffinity(0))


def test_where_the_system_cannot_tell_them_they_are_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert own_workers(Settings(workers=4096)) == os.cpu_count()
