"""How a shared cluster is divided, and how many workers it holds."""

import pytest

from peelbound.service.controller.cluster import fair_share, fitting


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
