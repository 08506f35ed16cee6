"""Verdicts follow from the evidence alone, and print nothing that the report does not hold."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peelbound.service.evidence import Evidence, Thresholds
from peelbound.service.schemas.report import BlockFinding, CheckpointVerdict, MatrixCell, Score, SpectrumReport
from peelbound.service.schemas.request import Provenance
from peelbound.service.verdict import judge
from tests.verdict_fixture import (
    INERT,
    NETWORKS,
    around,
    as_report,
    block,
    bound,
    cell,
    control,
    evidence,
    network,
    resolve,
    scored,
    uncited_numbers,
)

STATUS = CheckpointVerdict
LIMITS = Thresholds()


def status(changed: Evidence) -> CheckpointVerdict:
    return judge(changed).verdict.status


def text(changed: Evidence) -> str:
    verdict = judge(changed).verdict
    return " ".join([verdict.headline, *(sentence.text for sentence in verdict.sentences)])


# --- the checkpoint


def test_a_sound_annealed_model_holds_and_says_how_well_it_was_looked_at() -> None:
    judged = judge(evidence())
    assert judged.verdict.status is STATUS.HOLDS
    assert judged.verdict.smallest_visible_effect == 0.0035
    assert (
        judged.verdict.headline
        == "Holds: nothing gained on check, where 0.0035 nats in any one block would have been seen."
    )
    assert "nothing about longer or rescheduled training" in text(evidence())
    assert {block.finding for block in judged.blocks} == {BlockFinding.SOUND}


def test_a_block_that_gains_makes_it_improvable() -> None:
    gaining = evidence(
        blocks=(block(), block(gain=around(0.0095)), block(gain=around(0.012)), block(gain=around(2e-3)))
    )
    verdict = judge(gaining).verdict
    assert verdict.status is STATUS.IMPROVABLE
    assert verdict.headline == "Improvable: re-solving block 3 alone gains 0.0120 nats on check."
    assert "Block 2 gains too;" in text(gaining)
    assert "That is less than the tolerance" not in text(gaining)
    assert "Shown to gain, and to gain less than the tolerance of 0.01 nats: block 4." in text(gaining)
    assert status(evidence(blocks=(block(gain=around(0.0009)),))) is STATUS.HOLDS


def test_a_gain_that_is_shown_to_be_below_the_tolerance_is_said_and_holds() -> None:
    small = evidence(blocks=(block(), block(gain=around(0.002)), block(gain=around(0.003))))
    verdict = judge(small).verdict
    assert verdict.status is STATUS.HOLDS
    assert verdict.headline.startswith("Holds: no gain on check reaches the tolerance of 0.01 nats, where")
    assert "gain less than the tolerance of 0.01 nats: block 3 and block 2." in text(small)
    assert status(replace(small, tolerance=0.0039)) is STATUS.IMPROVABLE


def test_a_gain_that_may_reach_the_tolerance_is_improvable_and_said_to_be_less_by_its_estimate() -> None:
    wide = evidence(blocks=(block(gain=around(0.008, 0.003)),))
    assert status(wide) is STATUS.IMPROVABLE
    assert "That is less than the tolerance of 0.01 nats." in text(wide)


def test_a_small_gain_of_network_or_head_is_said_too() -> None:
    small = around(0.004, joint=False)
    picked = network("direct", range(1, 7), gain=around(0.03), gain_over_control=around(0.002))
    base = evidence(networks=(NETWORKS[0], picked), bound=bound())
    both = replace(base, head_control=base.head_control.model_copy(update={"gain": small}))
    assert status(both) is STATUS.HOLDS
    assert "the reference network direct and the norm and the head, refitted alone." in text(both)


def test_power_is_that_of_blocks_and_a_network_or_head_that_may_gain_more_is_said_with_its_numbers() -> None:
    picked = network("direct", range(1, 7), gain=around(0.045, 0.05, joint=False), gain_over_control=around(0.03))
    base = evidence(networks=(NETWORKS[0], picked), bound=bound())
    verdict = judge(base).verdict
    assert verdict.status is STATUS.HOLDS
    assert verdict.headline.startswith("Holds: nothing is shown to gain on check, where 0.0035 nats in any one block")
    says = "Not so for the reference network direct: its gain of 0.0450 nats (95% interval -0.0050 to 0.0950) over the "
    assert says in text(base)
    one_block = replace(base, blocks=(block(), block(gain=around(0.002))))
    assert judge(one_block).verdict.headline.startswith("Holds: no gain that is shown on check reaches the tolerance")
    wide = evidence().head_control.model_copy(update={"gain": around(0.004, 0.02, joint=False)})
    assert "refitted alone: their gain of 0.0040 nats" in text(evidence(head_control=wide))
    assert "Not so for" not in text(evidence(networks=NETWORKS, bound=bound()))


@pytest.mark.parametrize(
    ("gain", "over_control", "expected"),
    [(0.03, 0.02, STATUS.IMPROVABLE), (0.03, 0.0, STATUS.HOLDS), (0.0, 0.02, STATUS.HOLDS)],
)
def test_a_network_must_beat_the_head_control_too(gain: float, over_control: float, expected: STATUS) -> None:
    picked = network("direct", range(1, 7), gain=around(gain, 0.01), gain_over_control=around(over_control, 0.01))
    assert status(evidence(networks=(NETWORKS[0], picked), bound=bound())) is expected


def test_only_the_network_that_select_picked_counts() -> None:
    lucky = network("YES-0", [6], gain=around(0.03), gain_over_control=around(0.03))
    assert status(evidence(networks=(lucky, NETWORKS[1]), bound=bound())) is STATUS.HOLDS


def test_a_head_that_gains_forbids_holds_but_accuses_no_block() -> None:
    base = evidence()
    gaining = replace(base, head_control=base.head_control.model_copy(update={"gain": around(0.02, joint=False)}))
    judged = judge(gaining)
    assert judged.verdict.status is STATUS.IMPROVABLE
    assert "norm and the head alone" in judged.verdict.headline
    assert {block.finding for block in judged.blocks} == {BlockFinding.SOUND}


def test_what_is_better_only_with_an_untied_head_is_said_to_be_larger() -> None:
    picked = network("direct", range(1, 7), gain=around(0.03), gain_over_control=around(0.02))
    by_network = evidence(networks=(NETWORKS[0], picked), bound=bound())
    by_head = replace(evidence(), head_control=evidence().head_control.model_copy(update={"gain": around(0.02)}))
    for larger in (by_network, by_head):
        verdict = judge(larger).verdict
        assert (verdict.status, verdict.extra_parameters) == (STATUS.IMPROVABLE, 262_144)
        assert verdict.headline.endswith("on check, with 262144 parameters more.")
        assert "No network of the checkpoint's own size is shown to be better" in text(larger)
    kept = picked.model_copy(update={"head_refitted": False})
    untied = by_head.head_control.model_copy(update={"extra_parameters": 0})
    for same_size in (
        replace(by_network, networks=(NETWORKS[0], kept)),
        replace(by_network, blocks=(block(gain=around(0.02)),)),
        replace(by_head, head_control=untied),
    ):
        verdict = judge(same_size).verdict
        assert (verdict.status, verdict.extra_parameters) == (STATUS.IMPROVABLE, 0)
        assert "parameters more" not in text(same_size)


def test_what_could_not_be_seen_is_inconclusive_and_says_what_would_do() -> None:
    blind = evidence(blocks=(block(), block(smallest_visible_effect=0.02)), check_documents=50)
    verdict = judge(blind).verdict
    assert verdict.status is STATUS.INCONCLUSIVE
    assert verdict.documents_needed == 200
    assert "About 200 check documents would do: supply at least 250 in all, and let check have 384" in text(blind)
    assert (verdict.check_sequences_needed, verdict.documents_in_all) == (384, 250)
    assert "more than an audit takes" in text(replace(blind, tolerance=0.0003))
    assert judge(evidence()).verdict.documents_needed is None


def test_a_block_that_too_few_select_documents_turned_down_forbids_holds() -> None:
    blind = evidence(blocks=(block(), block(smallest_visible_effect=None)), select_documents=1)
    verdict = judge(blind).verdict
    assert (verdict.status, verdict.smallest_visible_effect) == (STATUS.INCONCLUSIVE, None)
    assert (verdict.documents_needed, verdict.documents_in_all) == (None, None)
    assert verdict.headline.endswith("would have been seen is unknown, since select has only 1 document.")
    assert "would have been seen in block 2 is unknown: select turned down" in text(blind)
    assert "has 1 document where 6 would tell" in text(blind)
    gaining = replace(blind, blocks=(*blind.blocks, block(gain=around(0.02))))
    assert status(gaining) is STATUS.IMPROVABLE


@pytest.mark.parametrize(
    ("below_trained", "below_control", "share", "expected", "says"),
    [
        (False, False, None, STATUS.HOLDS, "no reference network wins even in sample"),
        (True, False, 1.0, STATUS.HOLDS, "refitting the head explains all"),
        (True, True, 0.64, STATUS.IN_SAMPLE_ONLY, "explains 64% of what was won"),
    ],
)
def test_winning_in_sample_counts_only_beyond_the_head_control(
    below_trained: bool, below_control: bool, share: float | None, expected: STATUS, says: str
) -> None:
    fitted = bound(below_trained_on_fit=below_trained, below_control_on_fit=below_control, control_share=share)
    with_bound = evidence(networks=NETWORKS, bound=fitted)
    assert status(with_bound) is expected
    assert says in text(with_bound)
    blind = replace(with_bound, blocks=(block(smallest_visible_effect=0.02),))
    assert status(blind) is STATUS.INCONCLUSIVE


def test_too_few_documents_give_estimates_and_accuse_nobody() -> None:
    few = evidence(check_documents=29, blocks=(INERT, block(gain=around(0.1)), scored(30, 30)))
    assert status(few) is STATUS.ESTIMATE_ONLY
    assert {block.finding for block in judge(few).blocks} == {BlockFinding.SOUND}
    assert "29" in judge(few).blocks[0].reason.text
    assert status(replace(few, check_documents=30)) is STATUS.IMPROVABLE


def test_a_missed_control_comes_before_holds() -> None:
    missed = evidence(positive_control=control(damage_seen=False, named_block=None, right_block_named=False))
    verdict = judge(missed).verdict
    assert verdict.status is STATUS.HOLDS
    assert verdict.headline.startswith("Holds, but the planted damage was missed")
    assert verdict.sentences[0].text.startswith("The positive control was missed")
    seen = judge(evidence(positive_control=control())).verdict
    assert "missed" not in seen.headline
    assert "right block named" in seen.sentences[-1].text


@pytest.mark.parametrize("changes", [{"planted_cost": -0.0004}, {"measured_cost": around(0.001, 0.002, joint=False)}])
def test_a_control_that_cost_nothing_is_not_called_damage(changes: dict[str, Any]) -> None:
    said = text(evidence(positive_control=control(damage_seen=False, named_block=None, **changes)))
    assert "noise that is not shown to cost anything on check" in said
    assert "damage of" not in said.replace("damage of that size", "")


@pytest.mark.parametrize(("named", "says"), [(None, "no block was named"), (2, "block 2 was named")])
def test_a_control_that_was_seen_but_not_located_says_so(named: int | None, says: str) -> None:
    assert says in text(evidence(positive_control=control(named_block=named, right_block_named=False)))


def test_zero_steps_everywhere_are_said_to_be_zero_steps() -> None:
    still = block(gain=around(0.0, 0.0), excess_gain=around(0.0, 0.0), chosen_rho=0.0)
    said = text(evidence(blocks=(still,) * 4))
    assert "On select no step of re-solving any of the 4 blocks was better than none." in said
    assert status(evidence(blocks=(still,) * 4)) is STATUS.HOLDS


def test_named_blocks_stand_in_the_headline() -> None:
    judged = judge(evidence(blocks=(block(), INERT, block(), scored(-33, -23), scored(25, 30), block(), block())))
    assert judged.verdict.headline.endswith("block 2 is inert; blocks 4 and 5 lag.")
    reasons = [block.reason for block in judged.blocks if block.finding is not BlockFinding.SOUND]
    assert [s for s in judged.verdict.sentences if s in reasons] == reasons
    assert "not always a fault" in judged.verdict.sentences[-1].text


# --- properties

small = st.floats(-0.05, 0.05)
width = st.sampled_from([0.0, 0.0004, 0.003, 0.02])
intervals = st.builds(around, small, width)
scores = st.none() | st.builds(Score, mean=small, z=st.floats(-40, 40))
blocks = st.builds(
    block,
    gain=intervals,
    excess_gain=st.none() | intervals,
    smallest_visible_effect=st.none() | st.floats(0, 0.03),
    chosen_rho=st.sampled_from([0.0, 0.1, 0.3]),
    skip_cost=intervals,
    spectrum=st.none()
    | st.builds(
        SpectrumReport,
        departure=st.floats(-3, 60),
        matrix=st.just("mlp.up_proj.weight"),
        constant_norms=st.booleans(),
    ),
    block_influence=st.floats(0, 0.1),
    attention_scale=scores,
    mlp_scale=scores,
)
networks = st.tuples(st.none() | intervals, st.none() | intervals).map(
    lambda gains: (NETWORKS[0], network("direct", range(1, 7), gain=gains[0], gain_over_control=gains[1]), NETWORKS[2])
)
bounds = st.builds(
    bound,
    below_trained_on_fit=st.booleans(),
    below_control_on_fit=st.booleans(),
    control_share=st.none() | st.floats(0, 1),
)
controls = st.builds(
    control, damage_seen=st.booleans(), named_block=st.sampled_from([None, 2]), right_block_named=st.booleans()
)


@st.composite
def matrices(draw: st.DrawFn, blocks: int) -> tuple[MatrixCell, ...]:
    tested = draw(st.booleans())
    return tuple(
        cell(s, t, draw(small), draw(width), redundant=draw(st.booleans()) if tested and t - s > 1 else None)
        for s in range(blocks)
        for t in range(s + 1, min(s + 3, blocks) + 1)
    )


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    head = evidence().head_control.model_copy(update={"gain": draw(st.builds(around, small, st.just(0.01)))})
    with_bound = draw(st.booleans())
    those = tuple(draw(st.lists(blocks, min_size=1, max_size=7)))
    return evidence(
        matrix=draw(st.just(()) | matrices(len(those))),
        head_control=head,
        networks=draw(networks) if with_bound else (),
        bound=draw(bounds) if with_bound else None,
        blocks=those,
        positive_control=draw(st.none() | controls),
        provenance=draw(st.sampled_from(Provenance)),
        check_documents=draw(st.sampled_from([3, 29, 30, 200])),
        select_documents=draw(st.sampled_from([1, 5])),
        tolerance=draw(st.sampled_from([0.005, 0.01, 0.05])),
    )


@given(evidences())
@settings(max_examples=400, deadline=None)
def test_every_word_rests_on_the_report(given_evidence: Evidence) -> None:
    judged = judge(given_evidence)
    report = as_report(given_evidence, judged, LIMITS)
    reasons = [block.reason for block in judged.blocks]
    for sentence in [*judged.verdict.sentences, *reasons]:
        assert sentence.cites
        assert sentence.text.endswith(".")
        assert "{" not in sentence.text.replace("{3,6}", "")
        for cite in sentence.cites:
            assert resolve(report, cite.path) == cite.value
        assert uncited_numbers(sentence.text, [sentence]) == []
    assert uncited_numbers(judged.verdict.headline, judged.verdict.sentences) == []


@given(evidences())
@settings(max_examples=400, deadline=None)
def test_no_verdict_claims_more_than_its_evidence(given_evidence: Evidence) -> None:
    judged = judge(given_evidence)
    found, visible = judged.verdict.status, judged.verdict.smallest_visible_effect
    nothing_found = found in (STATUS.HOLDS, STATUS.NO_GAIN_ON_THIS_DATA, STATUS.IN_SAMPLE_ONLY)
    if nothing_found:
        assert visible is not None
        assert visible <= given_evidence.tolerance
        gains = [block.gain for block in given_evidence.blocks]
        assert all(gain.low <= 0 or gain.high < given_evidence.tolerance for gain in gains)
        some = any(gain.low > 0 for gain in gains)
        assert not (some and "nothing gained" in judged.verdict.headline)
        assert "in any one block would have been seen" in judged.verdict.headline or found is STATUS.IN_SAMPLE_ONLY
        estimates = [gain.estimate for gain in [*gains, given_evidence.head_control.gain]]
        reached = max(estimates) >= given_evidence.tolerance
        assert not (reached and "no gain on check reaches" in judged.verdict.headline)
    if given_evidence.provenance is Provenance.UNSEEN:
        assert found not in (STATUS.ADAPTABLE, STATUS.NO_GAIN_ON_THIS_DATA)
    else:
        assert found not in (STATUS.IMPROVABLE, STATUS.HOLDS)
    untested = given_evidence.check_documents < LIMITS.check_documents
    assert (found is STATUS.ESTIMATE_ONLY) == untested
    by_data = (BlockFinding.INERT, BlockFinding.LAGGING)  # an untrained block is known by its weights alone
    accused = [block for block in judged.blocks if block.finding in by_data]
    assert not (untested and accused)
    assert all(block.side is None or block.finding is BlockFinding.LAGGING for block in judged.blocks)
    assert (judged.verdict.documents_needed is not None) == (found is STATUS.INCONCLUSIVE and visible is not None)
    missed = given_evidence.positive_control is not None and not given_evidence.positive_control.damage_seen
    if missed and found in (STATUS.HOLDS, STATUS.NO_GAIN_ON_THIS_DATA):
        assert "missed" in judged.verdict.sentences[0].text
