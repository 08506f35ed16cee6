"""The verdict on each block: sound, inert, untrained or lagging, and why."""

from collections.abc import Sequence
from statistics import median

from peelbound.service.evidence import BlockEvidence, BlockJudgement, Thresholds
from peelbound.service.schemas.report import BlockFinding, Score
from peelbound.service.words import Phrase, compose, interval, nats, percent, plain, share, tenths, z_value

TOO_STRONG = "too_strong"
TOO_WEAK = "too_weak"

ScaleScores = tuple[Score | None, Score | None]
"""A block's scale scores of attention and MLP; None where a family's sub-layers cannot be told apart."""


def judge_blocks(
    blocks: Sequence[BlockEvidence], check_documents: int, thresholds: Thresholds
) -> tuple[BlockJudgement, ...]:
    """Judge every block against its own numbers and against the other blocks.

    Inert comes first: a block that does nothing has no output whose strength could be wrong. Then what needs no data:
    weights that look untrained explain whatever else is wrong. A block lags by its gain only where it gains at all:
    others that overshoot and lose do not make it worse. With too few check documents nothing is tested on them, so no
    block is accused but for its weights alone.
    """
    return tuple(_judge(blocks, position, check_documents, thresholds) for position in range(len(blocks)))


def scale_limit(scores: Sequence[ScaleScores], position: int, thresholds: Thresholds) -> float | None:
    """The |z| that both scores of the block at `position` must exceed; None where it does not have both.

    Neighbours of a damaged block compensate, and on text unlike the training data all blocks are off their optimum: so
    the limit grows with the median |z| of the other blocks.
    """
    if None in scores[position]:
        return None
    others = [abs(score.z) for other, pair in enumerate(scores) if other != position for score in pair if score]
    return max(thresholds.z_min, thresholds.z_spread * median(others)) if others else thresholds.z_min


def scale_side(scores: ScaleScores, limit: float | None, thresholds: Thresholds) -> str | None:
    """Which way a block's output is off: both scores beyond the limit on the same side and material, or None."""
    attention, mlp = scores
    if attention is None or mlp is None or limit is None:
        return None
    if min(_surely(attention), _surely(mlp)) <= thresholds.scale_effect:
        return None
    if min(attention.z, mlp.z) > limit:
        return TOO_STRONG
    if max(attention.z, mlp.z) < -limit:
        return TOO_WEAK
    return None


def _surely(score: Score) -> float:
    """Lower 95% bound of the score's size, in nats per unit of strength."""
    return abs(score.mean) * (1 - 1.96 / abs(score.z)) if score.z else 0.0


def looks_untrained(blocks: Sequence[BlockEvidence], position: int, thresholds: Thresholds) -> bool:
    """Whether the block's weights look like an initialisation, and those of the others like training.

    Random spectra alone do not accuse where training was light: small steps, or orthogonal ones, leave matrices close
    to random for long. Then the norm gains decide, which training moves from the start.
    """
    spectrum = blocks[position].spectrum
    others = [b.spectrum for index, b in enumerate(blocks) if index != position and b.spectrum is not None]
    if spectrum is None or not others or spectrum.departure > thresholds.departure:
        return False
    if median(other.departure for other in others) <= thresholds.departure:
        return False
    if spectrum.constant_norms and sum(other.constant_norms for other in others) < len(others) / 2:
        return True
    return min(other.departure for other in others) > thresholds.departure_ratio * thresholds.departure


def most_suspect(scores: Sequence[ScaleScores], thresholds: Thresholds) -> int | None:
    """The block (1..K) that the scale scores name first: the one farthest beyond its limit, or None."""
    named: list[tuple[float, int]] = []
    for position, (attention, mlp) in enumerate(scores):
        limit = scale_limit(scores, position, thresholds)
        if limit and attention and mlp and scale_side((attention, mlp), limit, thresholds):
            named.append((-min(abs(attention.z), abs(mlp.z)) / limit, position + 1))
    return min(named)[1] if named else None


def _judge(
    blocks: Sequence[BlockEvidence], position: int, check_documents: int, thresholds: Thresholds
) -> BlockJudgement:
    block = blocks[position]
    scores = [(other.attention_scale, other.mlp_scale) for other in blocks]
    influences = [other.block_influence for index, other in enumerate(blocks) if index != position]
    others = median(influences) if influences else None
    limit = scale_limit(scores, position, thresholds)
    side = scale_side(scores[position], limit, thresholds)
    words = _Words(position, block, thresholds)

    departures = [b.spectrum.departure for index, b in enumerate(blocks) if index != position and b.spectrum]
    others_departure = median(departures) if departures else None
    untrained = looks_untrained(blocks, position, thresholds)
    tested = check_documents >= thresholds.check_documents

    finding, because = BlockFinding.SOUND, words.sound()
    if not tested:
        side, because = None, words.untested(check_documents)
    if (
        tested
        and others is not None
        and block.skip_cost.high < thresholds.skip_cost
        and block.block_influence < thresholds.influence_fraction * others
    ):
        finding, side, because = BlockFinding.INERT, None, words.inert(others)
    elif untrained and others_departure is not None:
        finding, side, because = BlockFinding.UNTRAINED, None, words.untrained(others_departure)
    elif not tested:
        pass
    elif side is not None and limit is not None:
        finding, because = BlockFinding.LAGGING, words.off_scale(side, limit)
    elif block.excess_gain is not None and block.gain.low > 0 and block.excess_gain.low > thresholds.excess_gain:
        finding, because = BlockFinding.LAGGING, words.excess()
    return BlockJudgement(finding, because.sentence(), side, others, limit, others_departure)


class _Words:
    """The reasons, for one block; paths are those of the report."""

    def __init__(self, position: int, block: BlockEvidence, thresholds: Thresholds) -> None:
        self._at = f"/blocks/{position}"
        self._block = block
        self._thresholds = thresholds
        self._number = plain(f"{self._at}/index", position + 1)
        self._level = percent("/settings/thresholds/level", thresholds.level)

    def sound(self) -> Phrase:
        return compose("Block {} stands out in nothing: {}, and {}.", self._number, self._skip(), self._gain())

    def untested(self, check_documents: int) -> Phrase:
        return compose(
            "Block {} is not tested with {} check documents, {} are needed; leaving it out costs {} nats, "
            "re-solving it gains {} nats.",
            self._number,
            plain("/calibration/splits/check/documents", check_documents),
            plain("/settings/thresholds/check_documents", self._thresholds.check_documents),
            nats(f"{self._at}/skip_cost/estimate", self._block.skip_cost.estimate),
            nats(f"{self._at}/gain/estimate", self._block.gain.estimate),
        )

    def inert(self, others: float) -> Phrase:
        return compose(
            "Block {} does nothing measurable: {}, and its influence is {} where the median of the other blocks is {}.",
            self._number,
            self._skip(),
            share(f"{self._at}/block_influence", self._block.block_influence),
            share(f"{self._at}/others_influence", others),
        )

    def untrained(self, others: float) -> Phrase:
        spectrum = self._block.spectrum
        assert spectrum is not None
        norms = plain(f"{self._at}/spectrum/constant_norms", spectrum.constant_norms)
        random = compose(
            "Block {} looks untrained: no matrix of it departs from a random one by more than z {} (limit {}), where "
            "the median of the other blocks is {}",
            self._number,
            z_value(f"{self._at}/spectrum/departure", spectrum.departure),
            tenths("/settings/thresholds/departure", self._thresholds.departure),
            z_value(f"{self._at}/others_departure", others),
        )
        ending = "{}, and its norm gains are constant." if spectrum.constant_norms else "{}."
        return compose(ending, random, because=[norms])

    def off_scale(self, side: str, limit: float) -> Phrase:
        attention, mlp = self._block.attention_scale, self._block.mlp_scale
        assert attention is not None
        assert mlp is not None
        what, way = ("too strong or does harm", "down") if side == TOO_STRONG else ("too weak", "up")
        return compose(
            f"The output of block {{}} is {what}: the loss falls when it is scaled {way} "
            "(z {} for attention and {} for the MLP, beyond the limit of {} in size).",
            self._number,
            z_value(f"{self._at}/attention_scale/z", attention.z),
            z_value(f"{self._at}/mlp_scale/z", mlp.z),
            tenths(f"{self._at}/scale_limit", limit),
        )

    def excess(self) -> Phrase:
        excess = self._block.excess_gain
        assert excess is not None
        return compose(
            "Block {} lags behind the others: {}, which is {} nats more than the median of the other blocks {}; "
            "the threshold is {}.",
            self._number,
            self._gain(),
            nats(f"{self._at}/excess_gain/estimate", excess.estimate),
            interval(f"{self._at}/excess_gain", excess, self._level),
            plain("/settings/thresholds/excess_gain", self._thresholds.excess_gain),
        )

    def _skip(self) -> Phrase:
        path, cost = f"{self._at}/skip_cost", self._block.skip_cost
        estimate = nats(f"{path}/estimate", cost.estimate)
        return compose("leaving it out costs {} nats {}", estimate, interval(path, cost, self._level))

    def _gain(self) -> Phrase:
        path, gain = f"{self._at}/gain", self._block.gain
        if self._block.chosen_rho == 0:
            rho = plain(f"{self._at}/chosen_rho", self._block.chosen_rho)
            return compose("on select no step of re-solving it was better than none", because=[rho])
        estimate = nats(f"{path}/estimate", gain.estimate)
        return compose("re-solving it gains {} nats {}", estimate, interval(path, gain, self._level))
