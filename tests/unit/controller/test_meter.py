"""Progress, with a clock that the test turns."""

import pytest

from peelbound.service.controller.meter import Meter
from peelbound.service.schemas.record import Progress


class Watched:
    """A meter, its clock, and what it reported."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.told: list[Progress] = []
        self.meter = Meter(self.told.append, clock=lambda: self.now)

    def after(self, seconds: float) -> Meter:
        self.now += seconds
        return self.meter


@pytest.fixture
def watched() -> Watched:
    made = Watched()
    made.meter.plan(problems=10, work=1000.0)
    return made


def test_nothing_is_promised_before_anything_was_seen(watched: Watched) -> None:
    progress = watched.after(5).progress()
    assert (progress.problems_done, progress.problems_planned, progress.fraction) == (0, 10, 0.0)
    assert progress.problems_per_second is None
    assert progress.eta_seconds is None


def test_pace_and_time_left_are_those_of_what_was_solved(watched: Watched) -> None:
    for _ in range(5):
        watched.after(2).solved(100.0)
    progress = watched.meter.progress()
    assert progress.problems_done == 5
    assert progress.fraction == 0.5
    assert progress.problems_per_second == pytest.approx(0.5)
    assert progress.eta_seconds == pytest.approx(10.0)


def test_what_was_found_counts_as_done_but_not_as_pace(watched: Watched) -> None:
    watched.after(2).solved(100.0)
    watched.after(2).found(6, 600.0)
    watched.after(0).solved(100.0)
    progress = watched.meter.progress()
    assert (progress.problems_done, progress.problems_cached) == (8, 6)
    assert progress.fraction == 0.8
    assert progress.problems_per_second == pytest.approx(0.5)
    assert progress.eta_seconds == pytest.approx(4.0)


def test_walks_tell_the_time_left_before_anything_is_solved(watched: Watched) -> None:
    watched.after(1).worked(100.0)
    watched.after(1).worked(100.0)
    progress = watched.meter.progress()
    assert progress.problems_per_second is None
    assert progress.eta_seconds == pytest.approx(8.0)


def test_the_pace_is_that_of_the_last_minute(watched: Watched) -> None:
    watched.after(1).solved(1.0)
    for _ in range(4):
        watched.after(100).solved(1.0)
    for _ in range(70):
        watched.after(1).worked(10.0)
    assert watched.meter.progress().eta_seconds == pytest.approx((1000 - 705) / 10)


def test_solves_that_take_longer_than_the_window_have_a_pace_too(watched: Watched) -> None:
    for _ in range(3):
        watched.after(300).solved(100.0)
    progress = watched.after(150).progress()
    assert progress.problems_per_second == pytest.approx(1 / 450)
    assert progress.eta_seconds == pytest.approx(700 / (100 / 450))


def test_problems_that_fall_away_leave_the_plan(watched: Watched) -> None:
    watched.after(1).solved(500.0)
    watched.meter.unneeded(4, 300.0)
    for _ in range(5):
        watched.after(1).solved(40.0)
    progress = watched.meter.progress()
    assert (progress.problems_done, progress.problems_planned, progress.problems_cached) == (6, 6, 0)
    assert progress.fraction == 1.0


def test_done_never_exceeds_what_is_planned(watched: Watched) -> None:
    for _ in range(12):
        watched.after(1).solved(100.0)
    progress = watched.meter.progress()
    assert progress.problems_planned == progress.problems_done == 12
    assert progress.work_planned == progress.work_done
    assert progress.eta_seconds == 0


def test_it_reports_phases_at_once_and_work_every_two_seconds_at_most(watched: Watched) -> None:
    watched.told.clear()
    for _ in range(100):
        watched.after(0.0625).worked(1.0)
    assert len(watched.told) == 3  # in 6.25 s
    watched.meter.phase("checking")
    watched.meter.phase("reporting")
    assert [p.phase for p in watched.told[-2:]] == ["checking", "reporting"]
