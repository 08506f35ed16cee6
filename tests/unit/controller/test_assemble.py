"""From measurements to the report."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peelbound.service.controller.assemble import Assembly, Context, Control, Measured, picked_network
from peelbound.service.controller.block_evidence import block_evidence
from peelbound.service.schemas.report import CheckpointVerdict, Report
from peelbound.service.statistics import error_on
from peelbound.workers.keys import canonical
from peelbound.workers.tasks import Damage
from tests.measured_fixture import Synthetic, context, measured, with_check_documents, without_scores

CASES = [
    pytest.param("standard", 3, id="standard"),
    pytest.param("standard", 1, id="one block"),
    pytest.param("standard", 2, id="two blocks"),
    pytest.param("exhaustive", 3, id="exhaustive"),
    pytest.param("quick", 4, id="quick"),
]


def report_of(made: Context, given: Measured | None = None) -> Report:
    return Assembly(given or measured(made), made).report()


def at(report: Any, path: str) -> Any:
    """What a JSON pointer leads to."""
    for step in path.split("/")[1:]:
        report = report[int(step)] if isinstance(report, list) else report[step]
    return report


@pytest.mark.parametrize(("preset", "blocks"), CASES)
def test_a_report_crosses_the_wire_and_each_sentence_cites_what_stands_in_it(preset: str, blocks: int) -> None:
    report = report_of(context(preset, blocks))
    data = canonical(report.model_dump(mode="json"))
    assert Report.model_validate_json(data) == report
    plain = json.loads(data)
    sentences = [*report.verdict.sentences, *(b.reason for b in report.blocks)]
    cited = [cite for sentence in sentences for cite in sentence.cites]
    assert len(cited) > blocks
    for cite in cited:
        assert at(plain, cite.path) == cite.value, cite.path


@pytest.mark.parametrize(("preset", "blocks"), CASES)
def test_equal_measurements_give_equal_bytes(preset: str, blocks: int) -> None:
    one, other = (canonical(report_of(context(preset, blocks)).model_dump(mode="json")) for _ in range(2))
    assert one == other


def test_the_report_says_nothing_of_when_for_whom_or_under_which_name() -> None:
    report = report_of(context())
    asked = {"checkpoint", "calibration", "preset", "options", "seed", "baseline", "what_if"}
    assert set(report.request) == asked
    assert b"night" not in canonical(report.model_dump(mode="json"))


def test_quick_has_neither_bound_nor_matrix_nor_control() -> None:
    report = report_of(context("quick", 4))
    assert (report.networks, report.bound, report.matrix, report.positive_control) == ([], None, [], None)
    assert [b.residual for b in report.blocks] == [None] * 4


def test_losses_and_gains_have_their_splits_and_signs() -> None:
    made = context()
    given, draw = measured(made), Synthetic(9)
    report = report_of(made, given)
    assert report.trained.fit == pytest.approx(3.0)
    assert report.trained.select == pytest.approx(3.0)
    assert report.trained.check.estimate == pytest.approx(3.0)
    control = report.head_control
    assert (control.fit_loss, control.select_loss, control.check_loss) == pytest.approx((2.9, 3.02, 3.01))
    assert control.gain.estimate == pytest.approx(-0.01)  # it loses on check
    assert control.head_refitted
    other = report_of(made, replace(given, head_control=draw.head(2.9, 3.0, step=0, extra=77))).head_control
    assert (other.head_refitted, other.extra_parameters) == (False, 77)
    for block in report.blocks:
        assert block.skip_cost.estimate == pytest.approx(0.1 * block.index)
        assert block.gain.estimate == pytest.approx(0.0025)  # ρ = 0.15 gains 0.004 − 0.0015
        assert block.chosen_rho == 0.15
        assert block.weight_norm == 10 * block.index
        assert block.spectrum is not None
        assert block.spectrum.departure == 20 * block.index
        assert block.block_influence == pytest.approx(0.04 + 0.01 * block.index)
        assert block.residual == 0.1
    for cell in report.matrix:
        assert cell.loss_increase.estimate == pytest.approx(0.02 * (cell.target - cell.source) ** 2)
        assert cell.loss_increase.simultaneous
    assert {(c.source, c.target) for c in report.matrix} == set(made.plan.matrix_cells)


@pytest.mark.parametrize(
    ("tolerance", "enough", "redundant", "said"),
    [
        (0.2, 12, True, "are redundant: one fresh block in their place"),
        (0.01, 12, False, "No neighbouring blocks are shown to be redundant"),
        (0.2, 13, None, "select has 12 documents, 13 are needed"),
    ],
)
def test_blocks_are_redundant_by_the_tolerance_where_select_has_enough_documents(
    tolerance: float, enough: int, redundant: bool | None, said: str
) -> None:
    made = context(tolerance=tolerance)
    made = replace(made, thresholds=replace(made.thresholds, check_documents=enough))
    report = report_of(made)
    assert {cell.redundant for cell in report.matrix if cell.target - cell.source == 2} == {redundant}
    assert {cell.redundant for cell in report.matrix if cell.target - cell.source == 1} == {None}
    assert any("redundant" in caveat for caveat in report.caveats) is (redundant is True)
    assert any(said in sentence.text for sentence in report.verdict.sentences)
    few = with_check_documents(made, enough - 1)
    assert {cell.redundant for cell in report_of(few).matrix} == {None}


def test_only_yes0_and_what_select_picked_have_met_check() -> None:
    made = context("exhaustive", 3)
    given = measured(made)
    report = report_of(made, given)
    picked = picked_network(given.networks, given.blocks.trained.tokens["select"])
    assert {n.name for n in report.networks if n.check_loss is not None} == {"YES-0", picked.name}
    assert report.bound is not None
    assert report.bound.check_network == picked.name == "direct"
    assert report.bound.fit_loss == pytest.approx(min(n.fit_loss for n in report.networks))
    for network in report.networks:
        met = network.check_loss is not None
        assert (network.gain is not None, network.gain_over_control is not None) == (met, met)
    direct = report.networks[-1]
    assert direct.gain is not None
    assert direct.gain_over_control is not None
    assert direct.check_loss == pytest.approx(3.6)
    assert direct.gain.estimate == pytest.approx(3.0 - 3.6)
    assert direct.gain_over_control.estimate == pytest.approx(3.01 - 3.6)
    assert direct.fit_loss_unchanged_head == pytest.approx(3.4)
    assert direct.target_map == [1, 2, 3]


def test_the_pick_is_made_on_select_alone() -> None:
    draw = Synthetic()
    best_on_fit, best_on_select = draw.network((3,), fit=2.0, select=3.5), draw.network((1, 3), fit=3.0, select=3.4)
    assert picked_network([best_on_fit, best_on_select], draw.tokens["select"]) is best_on_select


def test_the_seed_moves_intervals_and_no_estimate() -> None:
    made = context()
    other = replace(made, plan=replace(made.plan, seed=1))
    one, two = report_of(made), report_of(other)
    assert [b.gain.estimate for b in one.blocks] == [b.gain.estimate for b in two.blocks]
    assert [b.gain.standard_error for b in one.blocks] == [b.gain.standard_error for b in two.blocks]
    assert [b.gain.low for b in one.blocks] != [b.gain.low for b in two.blocks]


def test_power_of_a_block_left_alone_is_that_of_its_best_step_on_select() -> None:
    """The unchanged block differs in nothing on check, and would seem to be measured without error."""
    made = context("quick", 3)
    given = measured(made)
    still = Synthetic().blocks({(b, rho): -0.01 * rho for b in (1, 2, 3) for rho in (0.15, 0.5)})
    report = report_of(made, replace(given, blocks=still))
    for block in report.blocks:
        assert (block.chosen_rho, block.gain.estimate, block.gain.high) == (0.0, 0.0, 0.0)
        assert block.smallest_visible_effect is not None
        assert block.smallest_visible_effect > 0.001
    assert report.verdict.smallest_visible_effect == max(b.smallest_visible_effect or 0 for b in report.blocks)


@pytest.mark.parametrize(("documents", "known"), [(1, False), (5, False), (6, True)])
def test_power_is_unknown_where_too_few_select_documents_turned_a_block_down(documents: int, known: bool) -> None:
    """One document shows no spread at all: its standard error of 0 would claim that anything is seen."""
    made = context("quick", 3)
    gains = {(b, rho): 0.01 if b == 1 else -0.01 for b in (1, 2, 3) for rho in (0.15, 0.5)}
    few = Synthetic(select_documents=documents).blocks(gains)
    found = block_evidence(few, made.thresholds, seed=0)
    assert [block.smallest_visible_effect is not None for block in found] == [True, known, known]
    assert all(block.smallest_visible_effect != 0 for block in found)


def test_few_select_documents_do_not_widen_what_check_can_see() -> None:
    """Of 6 select documents the critical value for 12 blocks is 6 to 12; of check's 40 it is about 3."""
    made = context("quick", 12)
    gains = {(b, rho): 0.01 if b <= 6 else -0.01 for b in range(1, 13) for rho in (0.15, 0.5)}
    few = Synthetic(select_documents=6).blocks(gains)
    found = block_evidence(few, made.thresholds, seed=0)
    for block in found[:6]:
        half = (block.gain.estimate - block.gain.low) / block.gain.standard_error
        assert block.smallest_visible_effect == pytest.approx((half + 0.8416) * block.gain.standard_error)
    errors = error_on(few.select_gains(), 40)[6:]
    critical = [(block.smallest_visible_effect or 0) / e - 0.8416 for block, e in zip(found[6:], errors, strict=True)]
    assert critical == pytest.approx([critical[0]] * 6)
    assert 2.5 < critical[0] < 4


def test_a_gain_on_check_makes_unseen_data_improvable() -> None:
    made = context("quick", 3)
    gains = {(b, rho): 0.05 if b == 2 else 0.0 for b in (1, 2, 3) for rho in (0.15, 0.5)}
    report = report_of(made, replace(measured(made), blocks=Synthetic().blocks(gains)))
    assert report.verdict.status is CheckpointVerdict.IMPROVABLE
    assert report.summary.best_block == 2
    lost = dict.fromkeys(gains, -0.05)
    report = report_of(made, replace(measured(made), blocks=Synthetic().blocks(gains, gains_on_check=lost)))
    assert report.verdict.status is not CheckpointVerdict.IMPROVABLE
    assert report.blocks[1].gain.high < 0


def test_scores_that_a_family_does_not_have_are_missing_with_a_word_of_why() -> None:
    made = context()
    report = report_of(made, without_scores(measured(made), "attention", "mlp"))
    assert [(b.attention_scale, b.mlp_scale) for b in report.blocks] == [(None, None)] * 3
    assert all(np.isfinite(b.block_scale.z) for b in report.blocks)
    missing = "This family's sub-layers could not be told apart: attention and MLP scores are missing."
    assert missing in report.caveats
    assert missing not in report_of(made).caveats


@pytest.mark.parametrize("whose", ["block", "network", "head"])
def test_a_gain_that_is_shown_on_few_documents_has_a_caveat_where_it_is_tested(whose: str) -> None:
    made = context(blocks=2)
    given = measured(made)
    lost = {(b, rho): -0.01 for b in (1, 2) for rho in (0.15, 0.5)}

    def with_blocks(gains: dict[tuple[int, float], float]) -> Measured:
        return replace(given, blocks=replace(Synthetic().blocks(gains), select=given.blocks.select))

    still = with_blocks(lost)
    better = still.blocks.trained.loss_sums["check"] - 0.05 * still.blocks.trained.tokens["check"]
    won = {
        "block": with_blocks(lost | {(2, 0.5): 0.05}),
        "network": replace(still, check_networks={**still.check_networks, "YES-0": better}),
        "head": replace(still, check_networks={**still.check_networks, "control": better}),
    }[whose]
    said = "A gain is shown on {} check documents"
    assert any(said.format(40) in caveat for caveat in report_of(made, won).caveats)
    assert not any("A gain is shown" in caveat for caveat in report_of(made, still).caveats)
    for untested_or_enough in (29, 100):
        other = report_of(with_check_documents(made, untested_or_enough), won)
        assert not any("A gain is shown" in caveat for caveat in other.caveats)


def test_sequences_beyond_what_the_model_is_made_for_are_said() -> None:
    made = context("quick", 3)
    for stated, said in ((None, False), (128, False), (127, True)):
        checkpoint = made.checkpoint.model_copy(update={"stated_positions": stated})
        caveats = report_of(replace(made, checkpoint=checkpoint)).caveats
        assert any("128 tokens are longer than the 127" in caveat for caveat in caveats) == said


# The positive control


def with_copy(made: Context, gains: dict[int, float], on_check: dict[int, float] | None = None) -> Report:
    """A report whose damaged copy (damage in block 2) has these gains, by block."""
    copy = Synthetic().blocks(
        {(b, 0.5): gain for b, gain in gains.items()},
        trained=3.05,
        gains_on_check=None if on_check is None else {(b, 0.5): gain for b, gain in on_check.items()},
    )
    return report_of(made, replace(measured(made), control=Control(Damage(2, 0.33, 1), copy)))


def test_the_planted_damage_is_seen_in_the_block_that_stands_out() -> None:
    found = with_copy(context(), {1: 0.001, 2: 0.04, 3: 0.001}).positive_control
    assert found is not None
    assert (found.block, found.noise) == (2, 0.33)
    assert found.planted_cost == pytest.approx(0.05)  # the same on select
    assert (found.damage_seen, found.named_block, found.right_block_named) == (True, 2, True)
    assert found.measured_cost.estimate == pytest.approx(0.05)  # CE(damaged) − CE(trained) on check
    assert found.gain.estimate == pytest.approx(0.04)


def test_a_neighbour_that_stands_out_is_the_wrong_block() -> None:
    found = with_copy(context(), {1: 0.04, 2: 0.001, 3: 0.001}).positive_control
    assert found is not None
    assert (found.damage_seen, found.named_block, found.right_block_named) == (True, 1, False)


def test_a_block_far_from_the_damage_is_no_sign_of_it() -> None:
    """The copy's steps are others than the audited network's, which can name anybody."""
    found = with_copy(context(blocks=5), {1: 0.001, 2: 0.001, 3: 0.001, 4: 0.04, 5: 0.001}).positive_control
    assert found is not None
    assert (found.block, found.damage_seen, found.named_block, found.right_block_named) == (2, False, None, False)
    assert "neither it nor a neighbour" in found.detail
    beside = with_copy(context(blocks=5), {1: 0.001, 2: 0.001, 3: 0.04, 4: 0.001, 5: 0.001}).positive_control
    assert beside is not None
    assert (beside.damage_seen, beside.named_block, beside.right_block_named) == (True, 3, False)
    both = with_copy(context(blocks=5), {1: 0.001, 2: 0.04, 3: 0.001, 4: 0.001, 5: 0.09}).positive_control
    assert both is not None
    assert (both.damage_seen, both.named_block, both.right_block_named) == (True, 2, True)


def test_damage_that_nothing_shows_is_not_seen() -> None:
    found = with_copy(context(), {1: 0.002, 2: 0.003, 3: 0.002}).positive_control
    assert found is not None
    assert (found.damage_seen, found.named_block, found.right_block_named) == (False, None, False)
    assert "not seen" in found.detail


def test_a_block_is_not_named_because_others_overshoot() -> None:
    """As little as a verdict would accuse it: it gains nothing itself."""
    found = with_copy(context(), {1: 0.01, 2: -0.01, 3: 0.01}, {1: -0.05, 2: 0.0, 3: -0.05}).positive_control
    assert found is not None
    assert found.gain.estimate == 0
    assert (found.damage_seen, found.named_block) == (False, None)
