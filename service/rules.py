"""The rules that accuse a block, as numbers: the evidence of each as a multiple of its limit. Above 1 it accuses.

A block is always judged against the other blocks of its model: on text unlike the training data all of them are off
their optimum, and neighbours of a damaged block compensate for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from peelbound.service.evidence import BlockEvidence, Thresholds
from peelbound.service.schemas.report import Score

TOO_STRONG = "too_strong"
TOO_WEAK = "too_weak"
ATTENTION, MLP = "attention", "mlp"
"""The halves of a block, as the report names their scores: `attention_scale`, `mlp_scale`."""

MOST = 100.0
"""No strength is larger: a limit may be compared with nothing at all."""


@dataclass(frozen=True)
class Strengths:
    """Of every rule on one block, and what it was compared with."""

    inert: float
    silent: float
    """Of a half, attention or MLP, that adds nothing while the other one works."""
    untrained: float
    faint: float
    """Of an influence that is too small for a block that matters."""
    scale: float
    """Of both scale scores on one side."""
    half: float
    """Of one scale score alone, on the side that says harm."""
    gain: float
    side: str | None
    """The side that both scale scores lie on, or that of the half."""
    others_influence: float | None
    scale_limit: float | None
    half_limit: float | None
    excess_limit: float | None
    influence_limit: float | None
    others_departure: float | None

    @property
    def most(self) -> float:
        """The strongest: how suspect the block is."""
        return max(self.inert, self.silent, self.untrained, self.faint, self.scale, self.half, self.gain)

    @property
    def missing(self) -> bool:
        """Whether the block, or half of it, does no work or was never trained: others have to make up for it."""
        return max(self.inert, self.silent, self.untrained) > 1

    def without_check(self) -> "Strengths":
        """What remains where check has too few documents: the weights alone."""
        return replace(self, inert=0.0, silent=0.0, faint=0.0, scale=0.0, half=0.0, gain=0.0, side=None)


def strengths(blocks: Sequence[BlockEvidence], thresholds: Thresholds) -> tuple[Strengths, ...]:
    """Of every block among the blocks of its model."""
    alone = [_strengths(blocks, position, thresholds) for position in range(len(blocks))]
    missing = {position for position, found in enumerate(alone) if found.missing}
    # Neighbours that make up for a missing block are off their optimum: more z-value is asked of them.
    return tuple(
        _strengths(blocks, position, thresholds, thresholds.beside_missing) if missing - {position} else found
        for position, found in enumerate(alone)
    )


def _strengths(
    blocks: Sequence[BlockEvidence], position: int, thresholds: Thresholds, factor: float = 1.0
) -> Strengths:
    block = blocks[position]
    others = [other for index, other in enumerate(blocks) if index != position]
    influence = median(other.block_influence for other in others) if others else None
    departures = [other.spectrum.departure for other in others if other.spectrum]
    both, half = _both_limit(block, others, thresholds), _half_limit(block, others, thresholds)
    both, half = (None if limit is None else factor * limit for limit in (both, half))
    scale, alone = _beyond(_same_side(block), block, both, thresholds), _harm(block, half, thresholds)
    excess_limit = _excess_limit(others, thresholds)
    influence_limit = _influence_limit(influence, len(others), thresholds)
    return Strengths(
        inert=_inert(block, influence, thresholds),
        silent=_silent(block, others),
        untrained=_untrained(block, others, thresholds),
        faint=_faint(block, influence_limit),
        scale=scale,
        half=alone,
        gain=_gain(block, excess_limit),
        side=TOO_WEAK if scale >= alone and _same_side(block) < 0 else TOO_STRONG,
        others_influence=influence,
        scale_limit=both,
        half_limit=half,
        excess_limit=excess_limit,
        influence_limit=influence_limit,
        others_departure=median(departures) if departures else None,
    )


def _scores(block: BlockEvidence) -> tuple[Score, ...]:
    """Of attention and MLP; none where the family's sub-layers cannot be told apart."""
    attention, mlp = block.attention_scale, block.mlp_scale
    return () if attention is None or mlp is None else (attention, mlp)


def _same_side(block: BlockEvidence) -> float:
    """The smaller of the two z-values where they agree in sign; 0 where they do not."""
    z = [score.z for score in _scores(block)]
    if not z or z[0] * z[1] <= 0:
        return 0.0
    return min(z, key=abs)


def _both_limit(block: BlockEvidence, others: Sequence[BlockEvidence], thresholds: Thresholds) -> float | None:
    """What the size of `_same_side` must exceed: it grows with the median of the other blocks'."""
    if not _scores(block):
        return None
    least = thresholds.weak_z_min if _same_side(block) < 0 else thresholds.z_min
    common = [abs(_same_side(other)) for other in others if _scores(other)]
    return max(least, thresholds.z_spread * median(common)) if common else least


def _half_limit(block: BlockEvidence, others: Sequence[BlockEvidence], thresholds: Thresholds) -> float | None:
    """What one z-value alone must exceed: it grows with the median size of the other blocks' z-values."""
    if not _scores(block):
        return None
    common = [abs(score.z) for other in others for score in _scores(other)]
    least = thresholds.half_z_min
    return max(least, thresholds.half_z_spread * median(common)) if common else least


def worst_half(block: BlockEvidence) -> str | None:
    """`attention` or `mlp`, whichever has the larger z-value; None where they cannot be told apart."""
    scores = _scores(block)
    return None if not scores else ATTENTION if scores[0].z >= scores[1].z else MLP


def silent_half(block: BlockEvidence) -> str | None:
    """`attention` or `mlp` where that half adds exactly nothing and the other one does: no loss depends on it."""
    for name, own, other in zip((ATTENTION, MLP), _scores(block), reversed(_scores(block)), strict=False):
        if own.z == own.mean == 0.0 and other.z != 0.0:
            return name
    return None


def _silent(block: BlockEvidence, others: Sequence[BlockEvidence]) -> float:
    """A half of it adds nothing; where most others lack the same half, that is how the model is."""
    half = silent_half(block)
    alike = sum(silent_half(other) == half for other in others)
    return MOST if half is not None and alike < max(len(others), 1) / 2 else 0.0


def _inert(block: BlockEvidence, others: float | None, thresholds: Thresholds) -> float:
    """Leaving it out must cost little, and it must change its input far less than the others do."""
    if others is None:
        return 0.0
    cheap = _ratio(thresholds.skip_cost, block.skip_cost.high)
    idle = _ratio(thresholds.influence_fraction * others, block.block_influence)
    return min(cheap, idle)


def _influence_limit(usual: float | None, others: int, thresholds: Thresholds) -> float | None:
    """What the influence of a block that matters must not fall below; None among too few blocks."""
    return None if usual is None or others < thresholds.faint_others else thresholds.faint_fraction * usual


def _faint(block: BlockEvidence, limit: float | None) -> float:
    """It must change its input much less than the others do, and be shown to matter all the same.

    Rounding that no training made up for does that. A block that is not shown to matter is inert, or nothing is known.
    """
    if limit is None:
        return 0.0
    strength = _ratio(limit, block.block_influence)
    return strength if block.skip_cost.low > 0 else min(strength, 1.0)


def _untrained(block: BlockEvidence, others: Sequence[BlockEvidence], thresholds: Thresholds) -> float:
    """Its weights must look like an initialisation, and those of the others like training.

    Where its norm gains are constant and most others' are not, random spectra suffice: training moves norm gains from
    the start. Without that sign the others must be clearly trained: small steps, or orthogonal ones, leave matrices
    close to random for long.
    """
    spectra = [other.spectrum for other in others if other.spectrum is not None]
    if block.spectrum is None or not spectra:
        return 0.0
    own = _ratio(thresholds.departure, block.spectrum.departure)
    if block.spectrum.constant_norms and sum(s.constant_norms for s in spectra) < len(spectra) / 2:
        return own
    strength = min(own, median(s.departure for s in spectra) / thresholds.departure)
    clear = min(s.departure for s in spectra) > thresholds.departure_ratio * thresholds.departure
    return strength if clear else min(strength, 1.0)


def _beyond(z: float, block: BlockEvidence, limit: float | None, thresholds: Thresholds) -> float:
    """Both scale scores must be beyond the limit on the same side, and matter."""
    if limit is None or z == 0.0:
        return 0.0
    return min(abs(z) / limit, min(map(_surely, _scores(block))) / thresholds.scale_effect)


def _harm(block: BlockEvidence, limit: float | None, thresholds: Thresholds) -> float:
    """One scale score must be beyond its own limit on the side of harm, and matter.

    The other side accuses nobody: a half that is wanted stronger may stand beside the one at fault.
    """
    if limit is None:
        return 0.0
    worst = max(_scores(block), key=lambda score: score.z)
    return max(min(worst.z / limit, _surely(worst) / thresholds.scale_effect), 0.0)


def _surely(score: Score) -> float:
    """Lower 95% bound of the score's size, in nats per unit of strength."""
    return max(abs(score.mean) * (1 - 1.96 / abs(score.z)), 0.0) if score.z else 0.0


def _excess_limit(others: Sequence[BlockEvidence], thresholds: Thresholds) -> float | None:
    """What the excess gain must exceed, in nats; None for a model of one block."""
    if not others:
        return None
    usual = median(other.gain.estimate for other in others)
    return max(thresholds.excess_gain, thresholds.excess_spread * usual)


def _gain(block: BlockEvidence, limit: float | None) -> float:
    """It must gain more than the others, and itself: others that overshoot and lose do not make it worse."""
    if block.excess_gain is None or limit is None or block.gain.low <= 0:
        return 0.0
    return max(block.excess_gain.low / limit, 0.0)


def _ratio(limit: float, value: float) -> float:
    return min(limit / value, MOST) if value > 0 else MOST
