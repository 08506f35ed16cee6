"""From a network's measurements to what is known of its blocks, and which of them that accuses. Pure."""

from collections.abc import Sequence

from peelbound.service.controller.block_measurements import BlockMeasurements
from peelbound.service.evidence import BlockEvidence, BlockJudgement, Thresholds
from peelbound.service.findings import judge_blocks
from peelbound.service.schemas.report import BlockFinding
from peelbound.service.statistics import error_on, excess_gain_intervals, paired_intervals, smallest_visible_effect
from peelbound.workers.keys import seed_of


def bootstrap_seed(seed: int, name: str) -> int:
    """Of the resampling behind an interval, by the request's seed and what the interval is of."""
    return seed_of(seed, "bootstrap", name)


def block_evidence(blocks: BlockMeasurements, level: float, seed: int) -> tuple[BlockEvidence, ...]:
    """The numbers on each block; `level` is that of the intervals, `seed` the request's."""
    gains = blocks.gains()
    found = paired_intervals(gains, level=level, seed=bootstrap_seed(seed, "gains"))
    skips = paired_intervals(blocks.skip_costs(), level=level, seed=bootstrap_seed(seed, "skips"))
    excess = excess_gain_intervals(gains, level=level, seed=bootstrap_seed(seed, "excess"))
    on_select = paired_intervals(blocks.select_gains(), level=level, seed=bootstrap_seed(seed, "power"))
    expected = error_on(blocks.select_gains(), gains.documents)
    return tuple(
        BlockEvidence(
            gain=found.intervals[i],
            excess_gain=None if excess is None else excess.intervals[i],
            smallest_visible_effect=(
                smallest_visible_effect(found.intervals[i].standard_error, max(found.critical, on_select.critical))
                if blocks.choice.chosen[index] != 0
                else smallest_visible_effect(float(expected[i]), max(found.critical, on_select.critical))
            ),
            chosen_rho=blocks.choice.chosen[index],
            skip_cost=skips.intervals[i],
            block_influence=blocks.trained.influence[i],
            attention_scale=blocks.scale("attention", index),
            mlp_scale=blocks.scale("mlp", index),
            spectrum=blocks.trained.spectra[i],
        )
        for i, index in enumerate(blocks.blocks)
    )


def accused(
    evidence: Sequence[BlockEvidence], check_documents: int, thresholds: Thresholds
) -> dict[int, BlockJudgement]:
    """The blocks (1..K) that are not sound."""
    judged = judge_blocks(evidence, check_documents, thresholds)
    return {i: j for i, j in enumerate(judged, start=1) if j.finding is not BlockFinding.SOUND}
