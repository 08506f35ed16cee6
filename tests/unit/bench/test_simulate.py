"""The simulated cluster against what can be worked out by hand, and an audit that runs on it to its end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.simulate import Shape, checkpoint, day, simulate
from bench.simulated_ray import Costs, SimulatedActor, SimulatedRay, Work
from peelbound.service.schemas.request import Preset

FREE = Costs(submit=0.0, take=0.0, latency=0.0, put=1e30, link=100.0, read=1e30)
FAST = replace(FREE, link=1e30)
BLINK = 0.05
"""What the test's own code takes, at most, and is charged for."""


def cluster(node_workers: int = 1) -> SimulatedRay:
    def work(method: str, args: tuple[Any, ...]) -> Work:
        return Work(float(method.removeprefix("takes_")), None, (2,))

    return SimulatedRay(FREE, work, block_bytes=0, width=1, node_workers=node_workers)


def call(actor: SimulatedActor, seconds: int, *args: Any) -> Any:
    output, done = getattr(actor, f"takes_{seconds}").options(num_returns=2).remote(*args)
    assert output.ready == done.ready
    return output


def test_an_actor_does_one_thing_after_another_and_two_at_the_same_time() -> None:
    ray = cluster()
    one, other = ray.start_worker(), ray.start_worker()
    assert [call(one, 5).ready, call(one, 5).ready, call(other, 7).ready] == pytest.approx([5, 10, 7], abs=BLINK)
    assert ray.worker_seconds == 17


def test_a_task_waits_for_what_it_is_given_and_what_comes_from_elsewhere_comes_once() -> None:
    ray = cluster()
    here, there = ray.start_worker(), ray.start_worker()
    states = ray.put(np.zeros((5, 10, 1), np.float32))  # 200 bytes: two seconds on the link
    first = call(here, 1, states)
    assert first.ready == pytest.approx(3, abs=BLINK)
    assert call(here, 1, states).ready == pytest.approx(4, abs=BLINK)
    assert call(here, 1, first).ready == pytest.approx(5, abs=BLINK)  # it lies where it was made
    assert call(there, 1, states).ready == pytest.approx(3, abs=BLINK)


def test_waiting_goes_on_to_the_first_that_is_ready() -> None:
    ray = cluster()
    slow, quick = call(ray.start_worker(), 9), call(ray.start_worker(), 2)
    assert ray.wait([slow, quick]) == ([quick], [slow])
    assert ray.now == pytest.approx(2, abs=BLINK)
    assert ray.wait([slow], timeout=0) == ([], [slow])
    assert ray.get(slow) is slow.value
    assert ray.now == pytest.approx(9, abs=BLINK)


def test_an_audit_ends_on_it_and_more_workers_do_the_same_work_in_less_time(tmp_path: Path) -> None:
    path = checkpoint(tmp_path.resolve(), blocks=4)
    shape = Shape(Preset.STANDARD, 4, width=64, fit=32)
    one, four = (simulate(path, shape, workers, FAST, flops=1e6, weigh=0.1) for workers in (1, 4))
    assert one.busy == pytest.approx(1, abs=0.05)
    assert one.seconds / 4 < four.seconds < one.seconds / 1.5
    assert four.busy < 1
    assert four.efficiency(one.seconds) == pytest.approx(one.seconds / four.seconds / 4)
    assert one.store["put"] == four.store["put"]


def test_blocks_that_more_workers_make_again_are_no_work_done(tmp_path: Path) -> None:
    path, shape = checkpoint(tmp_path.resolve(), blocks=2), Shape(Preset.QUICK, 2, width=64, fit=32)
    second_a_block = replace(FAST, put=2.0 * shape.block_parameters)
    one, four = (simulate(path, shape, workers, second_a_block, flops=1e7, weigh=0.1) for workers in (1, 4))
    assert one.load_seconds == pytest.approx(round(one.load_seconds))
    assert four.load_seconds > one.load_seconds
    computing = [audit.worker_seconds - audit.load_seconds for audit in (one, four)]
    assert computing[0] == pytest.approx(computing[1], rel=0.01)
    assert (four.busy - four.loading) * 4 * four.seconds == pytest.approx(computing[1])


def test_solves_do_not_stand_in_the_way_of_the_walk_that_states_them(tmp_path: Path) -> None:
    path = checkpoint(tmp_path.resolve(), blocks=12)
    shape = Shape(Preset.QUICK, 12, width=64, fit=32)
    one, six = (simulate(path, shape, workers, FAST, flops=1e7, weigh=0.0) for workers in (1, 6))
    assert six.phases["block_references"] < one.phases["block_references"] / 3
    assert six.phases["selecting"] < one.phases["selecting"] / 4  # on two shards


def test_a_day_has_no_waiting_where_there_is_room_and_much_where_there_is_none() -> None:
    assert day(1_000, 60, controllers=50).wait_p99 == 0
    crowded = day(1_000, 864, controllers=9)
    assert crowded.busy > 0.98
    assert crowded.wait_p50 > 864
