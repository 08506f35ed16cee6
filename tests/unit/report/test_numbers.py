import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelbound.service.report import numbers
from peelbound.service.schemas.report import Interval, Score


def make(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate=estimate, low=low, high=high, standard_error=0.001)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (3.41826, "3.4183"),
        (-0.0123, "−0.0123"),
        (-0.00004, "0.0000"),
        (None, "–"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_losses_have_four_decimals(value: float | None, written: str) -> None:
    assert numbers.decimal(value) == written


def test_a_gain_carries_its_sign_and_its_interval() -> None:
    assert numbers.gain(make(0.0071, 0.0052, 0.009)) == "+0.0071 [0.0052, 0.0090]"
    assert numbers.gain(make(-0.0012, -0.0031, 0.0007)) == "−0.0012 [−0.0031, 0.0007]"
    assert numbers.gain(make(0.001, 0.001, 0.001)) == "+0.0010"
    assert numbers.limits(make(0.001, 0.001, 0.001)) == ""
    assert numbers.gain(None) == "–"


def test_a_loss_with_its_interval_carries_no_sign() -> None:
    assert numbers.interval(make(3.1, 3.05, math.nan)) == "3.1000 [3.0500, NaN]"


def test_scores_show_their_z() -> None:
    assert numbers.score(Score(mean=0.1, z=9.12)) == "+9.1"
    assert numbers.score(Score(mean=0.1, z=-0.01)) == "0.0"
    assert numbers.score(None) == "–"


@pytest.mark.parametrize(
    ("value", "written"), [(0, "0"), (999, "999"), (1_452_928, "1.45 M"), (999_999, "1 M"), (134_515_008, "135 M")]
)
def test_magnitudes_have_three_digits(value: int, written: str) -> None:
    assert numbers.short(value) == written


@given(st.integers(min_value=0, max_value=10**16))
def test_sizes_are_short(value: int) -> None:
    digits, _, unit = numbers.size(value).partition(" ")
    assert unit in {"B", "KiB", "MiB", "GiB", "TiB"}
    assert len(digits.replace(".", "")) <= 4 or unit == "TiB"
    assert "e" not in digits


@pytest.mark.parametrize(
    ("value", "written"),
    [(True, "yes"), (12_192, "12,192"), (-3, "−3"), (0.00001, "1e−05"), (0.0563, "0.0563"), (None, "–"), ("x", "x")],
)
def test_cited_values_are_never_hidden_by_rounding(value: object, written: str) -> None:
    assert numbers.scalar(value) == written


def test_settings_are_flat_sorted_and_exact() -> None:
    nested = {"block": {"rhos": [0.3, 1.0], "steps": 15, "clip": None}, "a": True, "empty": {}}
    assert numbers.flatten(nested) == [
        ("a", "true"),
        ("block.clip", "null"),
        ("block.rhos", "[0.3, 1.0]"),
        ("block.steps", "15"),
        ("empty", "{}"),
    ]


def test_runs_of_numbers_are_drawn_together() -> None:
    assert numbers.ranges([1, 2, 3, 4, 6, 8, 9]) == "1–4, 6, 8, 9"
    assert numbers.ranges([]) == ""
