"""The bench's figures, against counting."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.damage.scoring import (
    Scored,
    accusations,
    area,
    by_cost,
    limit_at,
    naming,
    seeing,
    smallest_found,
    telling,
    top_named,
)

numbers = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.0]), min_size=1, max_size=8)


@given(numbers, numbers)
def test_the_area_is_the_share_of_pairs_in_the_right_order(one: list[float], other: list[float]) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in product(one, other)]
    assert area(one, other) == pytest.approx(sum(pairs) / len(pairs))


def test_what_could_not_be_measured_is_least_suspect() -> None:
    assert area([math.nan], [0.0, 1.0]) == 0.0
    assert area([1.0], [math.nan]) == 1.0
    assert math.isnan(area([], [1.0]))


SOUND = Scored((1.0, 2.0, 1.5), frozenset(), 0.0)
NAMED = Scored((1.0, 5.0, 1.5), frozenset({1}), 0.2, accused=frozenset({1}))
STRAYED = Scored((0.5, 1.0, 9.0), frozenset({1}), 0.06, accused=frozenset({2}))
CHEAP = Scored((1.0, 1.0, 1.4), frozenset({2}), 0.01)
EVERY = [SOUND, NAMED, STRAYED, CHEAP]


def test_naming_looks_within_a_copy_and_telling_across_all() -> None:
    assert naming([NAMED]) == 1.0
    assert naming([STRAYED]) == 0.5
    assert naming(EVERY) == pytest.approx((1.0 + 0.5 + 1.0) / 3)
    healthy = [1.0, 2.0, 1.5, 1.0, 1.5, 0.5, 9.0, 1.0, 1.0]
    assert telling([NAMED, STRAYED], EVERY) == pytest.approx(area([5.0, 1.0], healthy))
    assert math.isnan(naming([SOUND]))


def test_seeing_compares_copies_by_their_most_suspect_block() -> None:
    assert seeing([NAMED, STRAYED, CHEAP], [SOUND]) == pytest.approx(2 / 3)


def test_the_first_name_may_be_wrong() -> None:
    assert top_named(EVERY) == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", [0.0, math.nan, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_who_tells_no_block_from_another_names_by_chance(value: float, at: int) -> None:
    assert top_named([Scored((value, value, value), frozenset({at}), 0.1)]) == pytest.approx(1 / 3)


def test_a_block_without_a_number_is_not_named() -> None:
    assert top_named([Scored((math.nan, 1.0, 0.5), frozenset({1}), 0.1)]) == 1.0
    assert top_named([Scored((math.nan, 1.0, 1.0), frozenset({0}), 0.1)]) == 0.0


def test_accusations_of_sound_models_are_counted_apart_from_those_of_neighbours() -> None:
    counted = accusations(EVERY)
    assert (counted.found, counted.damaged) == (1, 3)
    assert (counted.wrong_sound, counted.sound) == (0, 3)
    assert (counted.wrong_others, counted.others) == (1, 6)
    slandered = Scored(SOUND.suspicions, frozenset(), 0.0, accused=frozenset({0, 2}))
    assert accusations([slandered]).wrong_sound == 2


def test_the_smallest_damage_found_and_the_classes_of_cost() -> None:
    assert smallest_found(EVERY, lambda c: bool(c.accused & c.damaged)) == 0.2
    assert smallest_found(EVERY, lambda c: False) is None
    assert by_cost(EVERY, 0.05, math.inf) == [NAMED, STRAYED]
    assert by_cost(EVERY, -math.inf, 0.05) == [CHEAP]


def test_a_limit_lets_at_most_its_share_of_sound_blocks_through() -> None:
    many = Scored(tuple(float(i) for i in range(100)), frozenset(), 0.0)
    limit = limit_at([many])
    assert sum(s > limit for s in many.suspicions) == 5
    assert limit_at([SOUND]) == 2.0  # three blocks: none may be accused
