import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelbound.service.report.charts.scale import Scale, block_ticks, tick_label

values = st.lists(st.floats(min_value=-1e4, max_value=1e4, allow_subnormal=False), min_size=1, max_size=30)


@given(values, st.booleans(), st.booleans())
def test_every_value_lies_within_the_plot_and_order_is_kept(shown: list[float], root: bool, zero: bool) -> None:
    scale = Scale.fitting(shown, 0, 100, root=root, zero=zero)
    positions = [scale(v) for v in sorted(shown)]
    assert all(0 <= p <= 100 for p in positions)
    assert positions == sorted(positions)


@given(values, st.booleans(), st.integers(min_value=2, max_value=6))
def test_ticks_are_few_ordered_and_inside(shown: list[float], root: bool, count: int) -> None:
    scale = Scale.fitting(shown, 0, 100, root=root)
    ticks = scale.ticks(count)
    assert 1 <= len(ticks) <= 2 * count + 1
    assert ticks == sorted(set(ticks))
    tolerance = 1e-9 * (scale.high - scale.low)
    assert all(scale.low - tolerance <= t <= scale.high + tolerance for t in ticks)


def test_missing_and_undefined_values_are_left_out() -> None:
    scale = Scale.fitting([None, math.nan, math.inf, 2.0], 0, 100)
    assert scale.low == 0
    assert 2.0 <= scale.high < 3.0


def test_nothing_to_show_still_makes_a_scale() -> None:
    scale = Scale.fitting([], 0, 100)
    assert scale.low < 0 < scale.high


def test_a_root_scale_shows_small_beside_large_and_keeps_signs() -> None:
    scale = Scale.fitting([-0.5, 0.005], 0, 100, root=True)
    assert scale(0.005) - scale(0) > 5
    assert 0 in scale.ticks(5)


@pytest.mark.parametrize(("value", "label"), [(0.0, "0"), (-0.05, "−0.05"), (2.0, "2"), (0.30000000000000004, "0.3")])
def test_tick_labels_have_the_decimals_they_need(value: float, label: str) -> None:
    assert tick_label(value) == label


@given(st.integers(min_value=1, max_value=600))
def test_block_labels_are_thinned_but_keep_both_ends(blocks: int) -> None:
    ticks = block_ticks(blocks)
    assert ticks[0] == 1
    assert ticks[-1] == blocks
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 14
