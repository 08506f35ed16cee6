"""The rules that accuse a block, as numbers: the evidence of each as a multiple of its limit. Above 1 it accuses.

A block is always judged against the other blocks of its model: on text unlike the training data all of them are off
their optimum, and neighbours of a damaged block compensate for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from peelbound.service.evidence import BlockEvidence, Thresholds
from peelbound.service.schemas.report import Score

TOO_STRONG = "too_strong"
TOO_WEAK = "too_weak"

MOST = 100.0
"""No strength is larger: a limit may be compared with nothing at all."""


@dataclass(frozen=True)
class Strengths:
    """Of every rule on one block, and what it was compared with."""

    inert: float
    untrained: float
    scale: float
    """Of both scale scores on one side."""
    gain: float
    side: str | None
    """Which way the output is off, where the scale scores accuse."""
    others_influence: float | None
    scale_limit: float | None
    others_departure: float | None

    @property
    def most(self) -> float:
        """The strongest: how suspect the block is."""
        return max(self.inert, self.untrained, self.scale, self.gain)

    def without_check(self) -> "Strengths":
        """What remains where check has too few documents: the weights alone."""
        return Strengths(
            0.0, self.untrained, 0.0, 0.0, None, self.others_influence, self.scale_limit, self.others_departure
        )


def strengths(blocks: Sequence[BlockEvidence], position: int, thresholds: Thresholds) -> Strengths:
    """Of the block at `position` among the blocks of its model."""
    block = blocks[position]
    others = [other for index, other in enumerate(blocks) if index != position]
    influence = median(other.block_influence for other in others) if others else None
    departures = [other.spectrum.departure for other in others if other.spectrum]
    limit = scale_limit(blocks, position, thresholds)
    scale, side = _scale(block, limit, thresholds)
    return Strengths(
        inert=_inert(block, influence, thresholds),
        untrained=_untrained(block, others, thresholds),
        scale=scale,
        gain=_gain(block, thresholds),
        side=side,
        others_influence=influence,
        scale_limit=limit,
        others_departure=median(departures) if departures else None,
    )


def scale_limit(blocks: Sequence[BlockEvidence], position: int, thresholds: Thresholds) -> float | None:
    """The |z| that both scale scores of the block at `position` must exceed; None where it does not have both.

    It grows with the median |z| of the other blocks.
    """
    if None in _scores(blocks[position]):
        return None
    others = [abs(s.z) for index, b in enumerate(blocks) if index != position for s in _scores(b) if s]
    return max(thresholds.z_min, thresholds.z_spread * median(others)) if others else thresholds.z_min


def _scores(block: BlockEvidence) -> tuple[Score | None, Score | None]:
    return block.attention_scale, block.mlp_scale


def _inert(block: BlockEvidence, others: float | None, thresholds: Thresholds) -> float:
    """Leaving it out must cost little, and it must change its input far less than the others do."""
    if others is None:
        return 0.0
    cheap = _ratio(thresholds.skip_cost, block.skip_cost.high)
    idle = _ratio(thresholds.influence_fraction * others, block.block_influence)
    return min(cheap, idle)


def _untrained(block: BlockEvidence, others: Sequence[BlockEvidence], thresholds: Thresholds) -> float:
    """Its weights must look like an initialisation, and those of the others like training.

    Random spectra alone do not accuse where training was light: small steps, or orthogonal ones, leave matrices close
    to random for long. Then the norm gains decide, which training moves from the start.
    """
    spectra = [other.spectrum for other in others if other.spectrum is not None]
    if block.spectrum is None or not spectra:
        return 0.0
    own = _ratio(thresholds.departure, block.spectrum.departure)
    strength = min(own, median(s.departure for s in spectra) / thresholds.departure)
    norms = block.spectrum.constant_norms and sum(s.constant_norms for s in spectra) < len(spectra) / 2
    clear = min(s.departure for s in spectra) > thresholds.departure_ratio * thresholds.departure
    return strength if norms or clear else min(strength, 1.0)


def _scale(block: BlockEvidence, limit: float | None, thresholds: Thresholds) -> tuple[float, str | None]:
    """Both scale scores must be beyond the limit on the same side, and matter."""
    attention, mlp = _scores(block)
    if attention is None or mlp is None or limit is None or attention.z * mlp.z <= 0:
        return 0.0, None
    far = min(abs(attention.z), abs(mlp.z)) / limit
    strength = min(far, min(_surely(attention), _surely(mlp)) / thresholds.scale_effect)
    side = TOO_STRONG if attention.z > 0 else TOO_WEAK
    return strength, side if strength > 1 else None


def _surely(score: Score) -> float:
    """Lower 95% bound of the score's size, in nats per unit of strength."""
    return max(abs(score.mean) * (1 - 1.96 / abs(score.z)), 0.0) if score.z else 0.0


def _gain(block: BlockEvidence, thresholds: Thresholds) -> float:
    """It must gain more than the others, and itself: others that overshoot and lose do not make it worse."""
    if block.excess_gain is None or block.gain.low <= 0:
        return 0.0
    return max(block.excess_gain.low / thresholds.excess_gain, 0.0)


def _ratio(limit: float, value: float) -> float:
    return min(limit / value, MOST) if value > 0 else MOST
