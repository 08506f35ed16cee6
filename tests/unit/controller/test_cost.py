"""What passes and solves cost."""

from dataclasses import replace

import pytest

from peelbound.service.controller.cost import BACKWARD, CostModel, Sizes
from peelbound.service.plan import CONTROL_SIGMAS, make_plan, mix_sizes
from peelbound.workers.recipes import CorrectedSettings, HeadSettings, StateSettings
from tests.measured_fixture import audit_request

COST = CostModel(block_parameters=10.0, head_parameters=7.0)
SIZES = Sizes(fit=640, select=320, check=960, length=64)


def test_a_pass_takes_two_operations_a_parameter_and_token() -> None:
    assert COST.block(5) == 100
    assert COST.block(5, passes=3) == 300
    assert COST.head(5) == 70


def test_a_walk_with_references_takes_the_blocks_that_each_of_them_passes() -> None:
    plan = make_plan(audit_request("quick"), blocks=5, hidden_size=32)
    walks = COST.walks(plan, SIZES)
    assert tuple(walks) == plan.walks
    # Two candidates leave at each block, and run from there to the end; the trained network runs along.
    passes = 5 + sum(2 * (5 - leaves + 1) for leaves in range(1, 6))
    assert walks["select"] == pytest.approx(COST.block(320, passes) + COST.head(320, 11))
    # On check one step of each block, and the network without it, which is spared that one block.
    assert walks["check"] == pytest.approx(COST.block(960, passes - 5) + COST.head(960, 11))
    assert walks["gradients and block references"] == pytest.approx(BACKWARD * COST.block(1600, 5))
    forward = COST.block(1920, 5) + COST.head(1600, BACKWARD) + COST.head(320)
    assert walks["trained states"] == pytest.approx(forward)


def test_the_positive_control_walks_again_and_its_noise_levels_ride_along() -> None:
    quick = make_plan(audit_request("quick"), blocks=5, hidden_size=32)
    control = replace(quick, positive_control=True)
    walks, plain = COST.walks(control, SIZES), COST.walks(quick, SIZES)
    assert tuple(walks) == control.walks
    assert len(walks) == 8
    assert walks["positive control: check"] == plain["check"]
    riding = COST.block(320, len(CONTROL_SIGMAS) * 3) + COST.head(320, len(CONTROL_SIGMAS))
    assert walks["select"] - plain["select"] == pytest.approx(riding)


def test_what_rounding_would_cost_is_one_pass_of_fit_two_references_a_block_and_the_mixes() -> None:
    quick = make_plan(audit_request("quick"), blocks=5, hidden_size=32)
    asking = make_plan(audit_request("quick").model_copy(update={"what_if": "int4"}), blocks=5, hidden_size=32)
    plain, walks = COST.walks(quick, SIZES), COST.walks(asking, SIZES)
    assert walks["trained states"] == plain["trained states"]
    back = "gradients and block references"
    assert walks[back] - plain[back] == pytest.approx(COST.block(640, 5))
    alone = 2 * (5 + 4 + 3 + 2 + 1)
    assert walks["select"] - plain["select"] == pytest.approx(COST.block(320, alone) + COST.head(320, 10))
    mixes = len(mix_sizes(5))
    riding = COST.block(960, alone + 5 * mixes) + COST.head(960, 10 + mixes)
    assert walks["check"] - plain["check"] == pytest.approx(riding)
    assert asking.what_if is not None
    spent = COST.solves(asking, SIZES) - COST.solves(quick, SIZES)
    assert spent == pytest.approx(5 * COST.corrected(asking.what_if, 640))


def test_a_corrected_solve_is_its_steps_two_halves_and_a_last_look() -> None:
    settings = CorrectedSettings(rho=0.3, steps=12, learning_rate=1e-3, gradient_clip=5, outlier=10)
    assert COST.corrected(settings, 640) == COST.block(640) * (3 * 12 + 3 * 2 + 1)


def test_a_state_solve_sees_a_batch_a_step_and_no_more_than_there_is() -> None:
    settings = StateSettings(steps=80, learning_rate=1e-2, batch=4, schedule="linear", halves=True)
    assert COST.state(settings, 640, 320, 64) == COST.block(4 * 64) * 3 * 80 + COST.block(960)
    assert COST.state(replace(settings, batch=100), 640, 320, 64) == COST.block(640) * 3 * 80 + COST.block(960)


def test_a_refit_looks_at_select_before_and_at_each_evaluation() -> None:
    settings = HeadSettings(steps=40, learning_rate=1e-3, batch=4, evaluations=4)
    assert COST.refit(settings, 640, 320, 64) == COST.head(256) * 3 * 40 + COST.head(5 * 320 + 2 * 640)


@pytest.mark.parametrize("preset", ["quick", "standard", "exhaustive"])
def test_the_total_is_all_walks_and_every_problem_of_the_plan(preset: str) -> None:
    plan = make_plan(audit_request(preset), blocks=5, hidden_size=32)
    counts = plan.problem_counts
    solves = sum(COST.corrected(s, SIZES.fit) for s in plan.corrected) * 5
    solves += COST.corrected(plan.corrected[-1], SIZES.fit) * counts.get("positive_control", 0)
    states = counts.get("matrix", 0) + counts.get("reference_network", 0)
    solves += COST.state(plan.state, SIZES.fit, SIZES.select, SIZES.length) * states
    solves += COST.refit(plan.head, SIZES.fit, SIZES.select, SIZES.length) * counts["head"]
    assert COST.total(plan, SIZES) == pytest.approx(sum(COST.walks(plan, SIZES).values()) + solves)
