"""From a network's measurements to what is known of its blocks, and which of them that accuses. Pure."""

from collections.abc import Sequence

from peelbound.service.controller.block_measurements import ZERO_STEP, BlockMeasurements
from peelbound.service.evidence import BlockEvidence, BlockJudgement, Thresholds
from peelbound.service.findings import judge_blocks
from peelbound.service.schemas.report import BlockFinding
from peelbound.service.statistics import (
    Intervals,
    error_on,
    excess_gain_intervals,
    paired_intervals,
    repeated,
    smallest_visible_effect,
)
from peelbound.workers.keys import seed_of


def bootstrap_seed(seed: int, name: str) -> int:
    """Of the resampling behind an interval, by the request's seed and what the interval is of."""
    return seed_of(seed, "bootstrap", name)


def block_evidence(blocks: BlockMeasurements, thresholds: Thresholds, seed: int) -> tuple[BlockEvidence, ...]:
    """The numbers on each block, intervals at the thresholds' level; `seed` is the request's."""
    level = thresholds.level
    gains = blocks.gains()
    found = paired_intervals(gains, level=level, seed=bootstrap_seed(seed, "gains"))
    skips = paired_intervals(blocks.skip_costs(), level=level, seed=bootstrap_seed(seed, "skips"))
    excess = excess_gain_intervals(gains, level=level, seed=bootstrap_seed(seed, "excess"))
    visible = _visible_effects(blocks, found, thresholds, bootstrap_seed(seed, "power"))
    return tuple(
        BlockEvidence(
            gain=found.intervals[i],
            excess_gain=None if excess is None else excess.intervals[i],
            smallest_visible_effect=visible[i],
            chosen_rho=blocks.choice.chosen[index],
            skip_cost=skips.intervals[i],
            block_influence=blocks.trained.influence[i],
            attention_scale=blocks.scale("attention", index),
            mlp_scale=blocks.scale("mlp", index),
            spectrum=blocks.trained.spectra[i],
        )
        for i, index in enumerate(blocks.blocks)
    )


def _visible_effects(
    blocks: BlockMeasurements, gains: Intervals, thresholds: Thresholds, seed: int
) -> list[float | None]:
    """δ80 of each block: from check where its step was measured there, from select where that turned it down.

    Check has no column for what was turned down, and may have none at all. What its documents could have seen takes
    select's spread, and a critical value for as many documents as check has.
    """
    turned_down, documents = blocks.select_gains(), blocks.gains().documents
    stand_ins = paired_intervals(repeated(turned_down, documents), level=thresholds.level, seed=seed)
    critical = max(gains.below, stand_ins.below)
    expected = error_on(turned_down, documents)
    known = turned_down.documents >= thresholds.select_documents
    effects: list[float | None] = []
    for index, interval, error in zip(blocks.blocks, gains.intervals, expected, strict=True):
        if blocks.choice.chosen[index] != ZERO_STEP:
            effects.append(smallest_visible_effect(interval.standard_error, gains.below))
        else:
            effects.append(smallest_visible_effect(float(error), critical) if known else None)
    return effects


def accused(
    evidence: Sequence[BlockEvidence], check_documents: int, thresholds: Thresholds
) -> dict[int, BlockJudgement]:
    """The blocks (1..K) that are not sound."""
    judged = judge_blocks(evidence, check_documents, thresholds)
    return {i: j for i, j in enumerate(judged, start=1) if j.finding is not BlockFinding.SOUND}
