"""Which damage is planted: between the levels whose costs are known, the one that costs what it should."""

import pytest

from peelbound.service.controller.block_measurements import Trained
from peelbound.service.controller.positive_control import noise_levels, planted, sigma_of_cost, typical_block
from peelbound.service.plan import CONTROL_COST, CONTROL_SIGMAS, Plan, make_plan
from peelbound.service.schemas.request import AuditRequest, Calibration


@pytest.mark.parametrize("power", [1, 2, 4])
@pytest.mark.parametrize("true", [0.13, 0.3, 2.0])
def test_a_cost_that_grows_as_a_power_of_the_noise_is_met(power: int, true: float) -> None:
    costs = {sigma: CONTROL_COST * (sigma / true) ** power for sigma in CONTROL_SIGMAS}
    assert sigma_of_cost(costs) == pytest.approx(true, rel=0.005)  # three digits


@pytest.mark.parametrize(("each", "chosen"), [(0.2, CONTROL_SIGMAS[0]), (0.001, CONTROL_SIGMAS[-1])])
def test_beyond_the_levels_nothing_is_guessed(each: float, chosen: float) -> None:
    assert sigma_of_cost(dict.fromkeys(CONTROL_SIGMAS, each)) == chosen


def test_levels_that_cost_nothing_or_less_lie_below() -> None:
    costs = {0.1: -0.001, 0.2: 0.0, 0.4: -0.002, 0.8: 0.07, 1.6: 0.02}
    assert 0.4 < sigma_of_cost(costs) < 0.8


def test_what_is_planted_has_the_direction_and_the_block_of_its_levels() -> None:
    plan = standard()
    levels = noise_levels(typical_block(influential(0.3, 0.1, 0.2)), plan)
    assert {(level.leaves, level.rejoins) for level in levels} == {(3, 3)}  # of three the median
    costs = {level.name: CONTROL_COST * (sigma / 0.6) ** 2 for level, sigma in zip(levels, CONTROL_SIGMAS, strict=True)}
    damage = planted(levels, costs)
    assert (damage.block, damage.sigma) == (3, pytest.approx(0.6, rel=0.005))
    assert {level.damage.seed for level in levels if level.damage} == {damage.seed}


@pytest.mark.parametrize(
    ("accused", "chosen"), [({}, 3), ({1}, 3), ({3}, 5), ({3, 5}, 4), ({2, 3, 4, 5}, 1), ({1, 2, 3, 4, 5}, 3)]
)
def test_nothing_is_planted_in_a_block_that_is_accused_while_others_are_not(accused: set[int], chosen: int) -> None:
    trained = influential(0.5, 0.1, 0.3, 0.4, 0.2)  # from the least: 2, 5, 3, 4, 1
    assert typical_block(trained, accused) == chosen


def standard() -> Plan:
    return make_plan(AuditRequest(checkpoint="/", calibration=Calibration(texts=["-"])), blocks=3, hidden_size=64)


def influential(*influence: float) -> Trained:
    return Trained({}, {}, [], list(influence), [], [])
