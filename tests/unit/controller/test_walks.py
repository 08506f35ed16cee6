"""How the states of references go from block to block, and what a walk tells workers of the damage in its network."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from peelbound.service.controller.walks import Walker, beside_part, carry
from peelbound.workers.tasks import Damage, Done, Reference

SKIP = Reference("skip", 2, 2)
SOLVED = Reference("solved", 2, 2, solution="key")
NOISY = Reference("noisy", 2, 2, damage=Damage(2, 0.5, 1))
ROUNDED = Reference("rounded", 2, 2, rounded_to="int4", rounds=(2, 4))
LONG = Reference("long", 1, 3, solution="key")
EVERY = [SKIP, SOLVED, NOISY, LONG]


def names(states: dict[str, str], index: int) -> tuple[dict[str, str], list[str]]:
    waiting, moving = carry(states, EVERY, index)
    return waiting, [name for name, _, _ in moving]


def test_before_they_leave_only_the_trained_network_and_those_that_leave_are_moved() -> None:
    waiting, moving = carry({"trained": "h0"}, EVERY, 1)
    assert waiting == {}
    assert moving == [("trained", None, "h0"), ("long", LONG, "h0")]


def test_where_they_leave_their_own_block_takes_the_trained_states_and_a_skip_keeps_them() -> None:
    waiting, moving = carry({"trained": "h1", "long": "x"}, EVERY, 2)
    assert waiting == {"skip": "h1", "long": "x"}
    assert moving == [("trained", None, "h1"), ("solved", SOLVED, "h1"), ("noisy", NOISY, "h1")]


def test_a_reference_waits_until_the_block_after_which_it_rejoins() -> None:
    states = {"trained": "h2", "skip": "a", "solved": "b", "noisy": "c", "long": "x"}
    assert names(states, 3) == ({"long": "x"}, ["trained", "skip", "solved", "noisy"])
    assert names(states, 4) == ({}, ["trained", "skip", "solved", "noisy", "long"])


def test_the_trained_network_always_goes_first() -> None:
    states = {"long": "x", "noisy": "c", "skip": "a", "solved": "b", "trained": "h3"}
    assert names(states, 4)[1][0] == "trained"


def test_a_mix_of_rounded_blocks_takes_its_own_and_the_trained_ones_in_turn() -> None:
    def moved(states: dict[str, str], index: int) -> list[tuple[str, Reference | None, str]]:
        waiting, moving = carry(states, [ROUNDED], index)
        assert waiting == {}
        return moving

    assert moved({"trained": "h0"}, 1) == [("trained", None, "h0")]
    assert moved({"trained": "h1"}, 2) == [("trained", None, "h1"), ("rounded", ROUNDED, "h1")]
    assert moved({"trained": "h2", "rounded": "r2"}, 3) == [("trained", None, "h2"), ("rounded", None, "r2")]
    assert moved({"trained": "h3", "rounded": "r3"}, 4) == [("trained", None, "h3"), ("rounded", ROUNDED, "r3")]
    assert moved({"trained": "h4", "rounded": "r4"}, 5) == [("trained", None, "h4"), ("rounded", None, "r4")]


def test_a_block_of_the_baseline_is_passed_and_not_skipped() -> None:
    taking = Reference("baseline", 2, 2, baseline="digest", free=True)
    assert carry({"trained": "h1"}, [taking], 2) == ({}, [("trained", None, "h1"), ("baseline", taking, "h1")])


def test_the_baselines_block_goes_only_to_the_lane_that_takes_it() -> None:
    taking = Reference("baseline", 2, 2, baseline="digest", free=True)
    states = {"trained": "h1"}
    assert beside_part("block", carry(states, [taking], 2)[1]) == "block"
    assert beside_part("block", carry(states, [SOLVED, NOISY], 2)[1]) is None
    # Once it has left, the trained blocks are its own.
    assert beside_part("block", carry(states | {"baseline": "x"}, [taking], 3)[1]) is None
    assert beside_part(None, carry(states, [taking], 2)[1]) is None


class Answering:
    """A pool whose workers answer at once, of one sequence of two tokens; keeps what losses are asked of."""

    def __init__(self) -> None:
        self.asked = dict[str, tuple[Any, ...]]()

    def submit(self, method: str, *args: Any, then: Any = None, **_: Any) -> Any:
        rows = np.zeros((1, 1), np.float32)
        if method == "embed":
            return SimpleNamespace(outputs=["h0"])
        self.asked[method] = args
        then(Done(0.0, {"losses": rows} if method == "loss_gradient" else {"trained": rows}))
        return SimpleNamespace(outputs=["g"])

    def finish_all(self) -> None:
        pass


@pytest.mark.parametrize("damage", [None, Damage(1, 0.5, 1)])
def test_workers_are_told_whose_losses_they_take(damage: Damage | None) -> None:
    pool: Any = Answering()
    shards = {
        split: [SimpleNamespace(number=0, rows=slice(0, 1), ids="ids", mask="mask", split=split)]
        for split in ("fit", "select", "check")
    }
    data: Any = SimpleNamespace(shards=shards, sequence_length=2)
    cost = SimpleNamespace(head=lambda *_: 0.0)
    audited: Any = SimpleNamespace(blocks=0, parts=lambda _: [], cost=cost)
    meter: Any = SimpleNamespace(worked=lambda _: None)
    Walker(audited, data, pool, meter, damage).trained(frozenset())
    assert pool.asked["loss_gradient"] == ("h0", "ids", "mask", damage)
    assert pool.asked["losses"] == ("ids", "mask", None, ["trained"], damage, "h0")
