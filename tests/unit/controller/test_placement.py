"""Who gets a task by its need, where it goes when that was too little, and what is said where there is no more."""

from dataclasses import dataclass

import pytest

from peelbound.service.controller.placement import Placement
from peelbound.workers.errors import DoesNotFit, OutOfMemory

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    room: int
    memory: str = "a device"


SMALL, MIDDLE, LARGE = Device(8 * GIB), Device(24 * GIB), Device(80 * GIB)
ALL = [SMALL, MIDDLE, LARGE]


def lacking(needed: int) -> DoesNotFit:
    return DoesNotFit("It held some bytes.", bytes_needed=needed, bytes_available=0)


def test_a_task_goes_to_those_on_which_it_fits() -> None:
    placement = Placement(4 * GIB, {"solve": 20 * GIB})
    assert placement.suited("pass", ALL) == ALL
    assert placement.suited("solve", ALL) == [MIDDLE, LARGE]


def test_what_fits_nowhere_is_tried_on_the_largest() -> None:
    placement = Placement(100 * GIB)
    alike = Device(int(LARGE.room / 1.01))
    assert placement.suited("pass", [*ALL, alike]) == [LARGE, alike]
    assert placement.suited("pass", []) == []


def test_what_did_not_fit_moves_to_a_larger_memory_and_none_of_its_kind_goes_back() -> None:
    placement = Placement(1 * GIB, {"solve": 2 * GIB})
    assert placement.move("solve", lacking(9 * GIB), SMALL, ALL) == [MIDDLE, LARGE]
    assert placement.suited("solve", ALL) == [MIDDLE, LARGE]
    assert placement.suited("pass", ALL) == ALL
    assert placement.move("solve", lacking(10 * GIB), MIDDLE, ALL) == [LARGE]
    assert placement.suited("solve", ALL) == [LARGE]


def test_it_moves_where_its_bytes_fit_if_that_is_known() -> None:
    assert Placement().move("solve", lacking(30 * GIB), SMALL, ALL) == [LARGE]


def test_a_memory_that_is_hardly_larger_is_no_larger_one() -> None:
    with pytest.raises(DoesNotFit):
        Placement().move("solve", lacking(9 * GIB), SMALL, [SMALL, Device(int(1.04 * SMALL.room))])


@pytest.mark.parametrize(
    ("formula", "measured", "needed", "by"),
    [(90, 85, 90, "by the plan's formula"), (60, 85, 85, "by what it held and asked for")],
)
def test_the_end_says_what_is_needed_what_there_is_and_what_to_do(
    formula: int, measured: int, needed: int, by: str
) -> None:
    placement = Placement(0, {"solve": formula * GIB})
    with pytest.raises(DoesNotFit) as caught:
        placement.move("solve", lacking(measured * GIB), LARGE, ALL)
    error = caught.value
    assert error.slug == "memory-exceeded"
    assert error.extra == {"bytes_needed": needed * GIB, "bytes_available": LARGE.room}
    assert f"{needed * GIB:,} bytes ({by})" in error.detail
    assert f"{LARGE.room:,}" in error.detail
    for remedy in ("options.grain", "calibration.sequence_length", "PEELBOUND_WORKER_GPUS"):
        assert remedy in error.remedy


def test_memory_that_others_have_taken_may_come_back() -> None:
    with pytest.raises(OutOfMemory, match="something else on that node has the rest") as caught:
        Placement(10 * GIB).move("pass", lacking(20 * GIB), LARGE, ALL)
    assert caught.value.extra["bytes_needed"] == 20 * GIB


def test_what_was_learned_holds_for_the_same_needs_only() -> None:
    assert Placement(1, {"solve": 2}) == Placement(1, {"solve": 2})
    assert Placement(1, {"solve": 2}) != Placement(1, {"solve": 3})
    assert Placement(1) != Placement(2)
