"""What is said of each block follows from its numbers and the others', and from nothing else."""

from dataclasses import replace

import pytest

from peelbound.service.evidence import BlockEvidence, Thresholds
from peelbound.service.schemas.report import BlockFinding, Score, SpectrumReport
from peelbound.service.verdict import judge
from tests.verdict_fixture import INERT, around, block, evidence, scored

LIMITS = Thresholds()


def findings(*blocks: object, documents: int = 192) -> list[str]:
    judged = judge(evidence(blocks=blocks, check_documents=documents))
    return [block.finding.value for block in judged.blocks]


def test_a_frozen_block_is_inert() -> None:
    judged = judge(evidence(blocks=(block(), block(), INERT, block(), block(), block())))
    assert [block.finding.value for block in judged.blocks] == ["sound", "sound", "inert", "sound", "sound", "sound"]
    assert judged.blocks[2].reason.text == (
        "Block 3 does nothing measurable: leaving it out costs 0.0003 nats (simultaneous 95% interval -0.0001 to "
        "0.0007), and its influence is 0.0004 where the median of the other blocks is 0.0520."
    )


def test_inert_takes_both_a_cheap_skip_and_little_influence() -> None:
    assert findings(block(skip_cost=around(0.0003, 0.0004)), block(), block())[0] == "sound"
    assert findings(block(block_influence=0.0004), block(), block())[0] == "sound"
    assert findings(replace(INERT, skip_cost=around(0.0003, 0.02)), block(), block())[0] == "sound"
    assert findings(INERT) == ["sound"]  # nothing to compare it with


FAINT = block(block_influence=0.0064, skip_cost=around(0.062, 0.01))
"""It changes its input by less than an eighth of what the other blocks do (0.052), and matters."""


def test_a_block_that_hardly_changes_its_input_and_matters_lags() -> None:
    enough = replace(FAINT, block_influence=0.0066)
    judged = judge(evidence(blocks=(block(block_influence=0.9), FAINT, block(), block(), block(), enough))).blocks
    assert [b.finding.value for b in judged] == ["sound", "lagging", "sound", "sound", "sound", "sound"]
    assert judged[1].side is None
    assert judged[1].reason.text == (
        "Block 2 hardly changes its input: its influence is 0.0064, below the limit of 0.0065, where the median of the "
        "other blocks is 0.0520; leaving it out costs 0.0620 nats (simultaneous 95% interval 0.0520 to 0.0720)."
    )
    assert findings(FAINT, *[block()] * 5, documents=29)[0] == "sound"


def test_a_block_that_is_not_shown_to_matter_is_not_faint() -> None:
    unclear = replace(INERT, skip_cost=around(0.0003, 0.02))
    judged = judge(evidence(blocks=(unclear, *[block()] * 5))).blocks
    assert judged[0].finding is BlockFinding.SOUND
    assert judged[0].suspicion == 1.0
    assert findings(INERT, *[block()] * 5)[0] == "inert"


def test_what_the_scores_say_of_a_faint_block_comes_first() -> None:
    strong = replace(FAINT, attention_scale=Score(mean=0.1, z=20), mlp_scale=Score(mean=0.1, z=20))
    judged = judge(evidence(blocks=(strong, *[block()] * 5))).blocks
    assert judged[0].side == "too_strong"
    assert "hardly" not in judged[0].reason.text


@pytest.mark.parametrize("middles", [2, 3, 4, 8, 28])
def test_the_first_and_the_last_block_make_no_median_that_accuses_those_between(middles: int) -> None:
    between = [block(block_influence=0.02 + 0.003 * (i % 3)) for i in range(middles)]
    assert set(findings(block(block_influence=0.985), *between, block(block_influence=0.376))) == {"sound"}


@pytest.mark.parametrize(
    ("scores", "side"),
    [
        ([(9.1, 14.7), (-4, 3), (2, -3), (1, -5)], "too_strong"),
        ([(-33, -23), (4, 3), (8, -7), (-6, 5)], "too_weak"),
        ([(26, 1.8), (-4, 3), (2, -3), (1, -5)], "too_strong"),  # attention alone
        ([(1.8, 26), (-4, 3), (2, -3), (1, -5)], "too_strong"),  # the MLP alone
        ([(11.5, -3), (-4, 3), (2, -3), (1, -5)], None),  # one half, not far enough alone
        ([(26, 1.8), (-9, 8), (7, -6), (8, -7)], None),  # one half, among others that are as far out
        ([(-26, 1.8), (-4, 3), (2, -3), (1, -5)], None),  # a half that is wanted stronger accuses nobody
        ([(8.4, -10.5), (2, 3), (2, -3), (1, -5)], None),  # two sides
        ([(7, 7), (-6, -5), (6, 7), (4, 9)], None),  # all blocks are off
        ([(-7.5, -7.5), (0, 0), (0, 0), (0, 0)], None),  # foreign text does as much to sound blocks
        ([(5.9, 5.9), (0, 0), (0, 0), (0, 0)], None),  # below what chance and mild strain reach
    ],
)
def test_scale_scores_accuse_only_far_out(scores: list[tuple[float, float]], side: str | None) -> None:
    judged = judge(evidence(blocks=tuple(scored(*pair) for pair in scores))).blocks
    assert judged[0].side == side
    assert judged[0].finding is (BlockFinding.LAGGING if side else BlockFinding.SOUND)
    assert {block.finding for block in judged[1:]} == {BlockFinding.SOUND}
    assert (judged[0].suspicion > 1) == bool(side)


def test_the_half_that_does_harm_is_named() -> None:
    attention, mlp = (
        judge(evidence(blocks=(scored(*pair), scored(-4, 3), scored(2, -3)))).blocks[0].reason
        for pair in ((26, 1.8), (1.8, 26))
    )
    assert attention.text == (
        "The attention of block 1 is too strong or does harm: the loss falls when it alone is scaled down (z +26.0, "
        "beyond the limit of 12.0)."
    )
    assert mlp.text.startswith("The MLP of block 1 is too strong")


def test_a_half_that_adds_exactly_nothing_lags_unless_others_are_alike() -> None:
    dead = block(mlp_scale=Score(mean=0.0, z=0.0), attention_scale=Score(mean=-0.01, z=-4.0))
    judged = judge(evidence(blocks=(block(), block(), dead))).blocks
    assert [b.finding.value for b in judged] == ["sound", "sound", "lagging"]
    assert judged[2].side == "too_weak"
    assert judged[2].reason.text == (
        "The MLP of block 3 adds nothing: scaling it changes no loss (z +0.0, mean 0.0), while the other half works "
        "(z -4.0)."
    )
    assert findings(block(), dead, dead) == ["sound"] * 3


def test_limits_are_wider_beside_a_block_that_is_missing_since_others_make_up_for_it() -> None:
    strained, broken = scored(-20, -15), scored(-20, -17)
    assert findings(block(), strained, block()) == ["sound", "lagging", "sound"]
    assert findings(INERT, strained, block()) == ["inert", "sound", "sound"]
    assert findings(INERT, broken, block()) == ["inert", "lagging", "sound"]
    assert "beyond the limit of 16.0" in judge(evidence(blocks=(INERT, broken, block()))).blocks[1].reason.text


def test_the_block_farthest_beyond_its_limit_is_the_most_suspect() -> None:
    quiet = scored(1, -2)
    judged = judge(evidence(blocks=(quiet, quiet, scored(9, 8), scored(15, 11), quiet))).blocks
    assert sorted(range(5), key=lambda i: judged[i].suspicion)[-2:] == [2, 3]
    assert judged[3].suspicion == pytest.approx(11 / 6)


def test_scale_scores_that_do_not_matter_accuse_nobody_however_many_documents() -> None:
    sound = scored(1, -2)
    tiny = block(attention_scale=Score(mean=0.002, z=20.0), mlp_scale=Score(mean=0.003, z=30.0))
    assert findings(tiny, sound, sound) == ["sound"] * 3
    unsure = block(attention_scale=Score(mean=0.012, z=7.0), mlp_scale=Score(mean=0.012, z=7.0))  # 0.0086 at least
    assert findings(unsure, sound, sound) == ["sound"] * 3


def test_a_gain_beyond_the_others_lags() -> None:
    ahead = block(gain=around(0.02), excess_gain=around(0.018))
    assert findings(block(), ahead, block()) == ["sound", "lagging", "sound"]
    assert "0.0180 nats more" in judge(evidence(blocks=(block(), ahead, block()))).blocks[1].reason.text


def test_on_text_where_all_blocks_gain_more_is_asked_of_the_excess() -> None:
    """As a sound model gains on text unlike its training data; the last block gains six times what the others do."""
    usual = [block(gain=around(0.015), excess_gain=around(0.0)) for _ in range(3)]
    first = block(gain=around(0.045), excess_gain=around(0.030))
    assert findings(first, *usual) == ["sound"] * 4
    behind = block(gain=around(0.09), excess_gain=around(0.075))
    judged = judge(evidence(blocks=(*usual, behind))).blocks
    assert [said.finding.value for said in judged] == ["sound", "sound", "sound", "lagging"]
    assert judged[3].excess_limit == pytest.approx(0.045)
    assert "beyond the limit of 0.0450" in judged[3].reason.text


def test_others_that_lose_do_not_make_a_block_lag() -> None:
    still = block(gain=around(0.0, 0.0), excess_gain=around(0.012), chosen_rho=0.0)
    losing = block(gain=around(-0.012), excess_gain=around(-0.006))
    assert findings(still, losing, losing) == ["sound"] * 3


def weighted(departure: float, *, constant_norms: bool = False, **changes: object) -> BlockEvidence:
    spectrum = SpectrumReport(departure=departure, matrix="mlp.up_proj.weight", constant_norms=constant_norms)
    return block(spectrum=spectrum, **changes)


TRAINED = (weighted(25.2), weighted(11.6), weighted(4.7))
"""Muon leaves some blocks close to random for long, but moves their norms."""


def test_weights_like_an_initialisation_are_called_untrained_whatever_the_block_does() -> None:
    blocks = (*TRAINED, weighted(1.8, constant_norms=True))
    assert findings(*blocks) == ["sound", "sound", "sound", "untrained"]
    assert judge(evidence(blocks=blocks)).blocks[3].reason.text == (
        "Block 4 looks untrained: no matrix of it departs from a random one by more than z +1.8 (limit 5.0), where the "
        "median of the other blocks is +11.6, and its norm gains are constant."
    )
    assert findings(*blocks, documents=10)[3] == "untrained"  # it takes no documents
    assert judge(evidence(blocks=blocks)).verdict.headline.endswith("block 4 looks untrained.")


def test_constant_norms_among_moved_ones_accuse_also_where_training_was_light() -> None:
    light = (weighted(2.0), weighted(4.3), weighted(3.8))
    assert findings(*light, weighted(2.1, constant_norms=True), weighted(1.6, constant_norms=True)) == [
        *["sound"] * 3, *["untrained"] * 2,
    ]  # fmt: skip


def test_without_the_norms_a_random_spectrum_accuses_only_among_clearly_trained_blocks() -> None:
    assert findings(*TRAINED, weighted(1.8)) == ["sound"] * 4
    far = (weighted(189.0), weighted(209.0), weighted(262.0))
    assert findings(*far, weighted(1.8)) == ["sound", "sound", "sound", "untrained"]


def test_a_model_whose_blocks_all_look_alike_has_no_untrained_block() -> None:
    fresh = [weighted(d, constant_norms=True) for d in (0.3, 1.8, 2.2)]
    assert findings(*fresh) == ["sound"] * 3
    assert findings(weighted(12.0, constant_norms=True), *fresh) == ["sound"] * 4
    assert findings(weighted(1.0, constant_norms=True)) == ["sound"]
    assert findings(weighted(6.0, constant_norms=True), *TRAINED)[0] == "sound"


def test_a_block_that_does_nothing_is_inert_even_where_its_weights_look_untrained() -> None:
    idle = weighted(1.8, constant_norms=True, skip_cost=INERT.skip_cost, block_influence=INERT.block_influence)
    assert findings(*TRAINED, idle)[3] == "inert"


def test_without_sub_layers_no_scale_is_judged() -> None:
    whole = block(attention_scale=None, mlp_scale=None)
    judged = judge(evidence(blocks=(whole, scored(30, 30)))).blocks
    assert (judged[0].scale_limit, judged[0].finding) == (None, BlockFinding.SOUND)
    assert (judged[1].scale_limit, judged[1].side) == (LIMITS.z_min, "too_strong")


def test_beside_a_missing_block_more_z_is_asked_and_no_more_effect() -> None:
    far = block(attention_scale=Score(mean=0.016, z=30.0), mlp_scale=Score(mean=0.016, z=30.0))
    assert findings(far, block(), INERT, block())[:1] == ["lagging"]  # 0.015 nats for sure, and the limit is 12
    near = block(attention_scale=Score(mean=0.016, z=11.0), mlp_scale=Score(mean=0.016, z=11.0))
    assert findings(near, block(), INERT, block())[:1] == ["sound"]
    assert findings(near, block(), block(), block())[:1] == ["lagging"]


def test_two_blocks_with_a_silent_half_are_both_accused_and_a_model_without_that_half_is_not() -> None:
    dead = block(mlp_scale=Score(mean=0.0, z=0.0))
    accused = [name != "sound" for name in findings(dead, block(), dead, block(), block(), block())]
    assert accused == [True, False, True, False, False, False]
    assert findings(*[dead] * 4) == ["sound"] * 4
