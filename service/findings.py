"""The verdict on each block: sound, inert, untrained or lagging, and why."""

from collections.abc import Sequence

from peelbound.service.evidence import BlockEvidence, BlockJudgement, Thresholds
from peelbound.service.rules import ATTENTION, MLP, TOO_STRONG, TOO_WEAK, Strengths, silent_half, strengths, worst_half
from peelbound.service.schemas.report import BlockFinding
from peelbound.service.words import Phrase, compose, interval, nats, percent, plain, share, tenths, z_value

_HALVES = {ATTENTION: "attention", MLP: "MLP"}
_OTHER = {ATTENTION: MLP, MLP: ATTENTION}


def judge_blocks(
    blocks: Sequence[BlockEvidence], check_documents: int, thresholds: Thresholds
) -> tuple[BlockJudgement, ...]:
    """Judge every block against its own numbers and against the other blocks.

    Inert comes first: a block that does nothing has no output whose strength could be wrong. Then what needs no data:
    weights that look untrained explain whatever else is wrong. Last comes an output that is small, and not shown to be
    too small. With too few check documents nothing is tested on them, so no block is accused but for its weights alone.
    """
    tested = check_documents >= thresholds.check_documents
    found = strengths(blocks, thresholds)
    return tuple(
        _judge(_Words(at, blocks[at], thresholds), s if tested else s.without_check(), check_documents, tested)
        for at, s in enumerate(found)
    )


def _judge(words: "_Words", found: Strengths, check_documents: int, tested: bool) -> BlockJudgement:
    finding, because, side = BlockFinding.SOUND, words.sound() if tested else words.untested(check_documents), None
    if found.inert > 1 and found.others_influence is not None:
        finding, because = BlockFinding.INERT, words.inert(found.others_influence)
    elif found.untrained > 1 and found.others_departure is not None:
        finding, because = BlockFinding.UNTRAINED, words.untrained(found.others_departure)
    elif found.silent > 1:
        finding, because, side = BlockFinding.LAGGING, words.silent(), TOO_WEAK
    elif found.scale > 1 and found.side is not None and found.scale_limit is not None:
        finding, because, side = BlockFinding.LAGGING, words.off_scale(found.side, found.scale_limit), found.side
    elif found.half > 1 and found.half_limit is not None:
        finding, because, side = BlockFinding.LAGGING, words.harm(found.half_limit), found.side
    elif found.gain > 1 and found.excess_limit is not None:
        finding, because = BlockFinding.LAGGING, words.excess(found.excess_limit)
    elif found.faint > 1 and found.influence_limit is not None and found.others_influence is not None:
        finding, because = BlockFinding.LAGGING, words.faint(found.influence_limit, found.others_influence)
    return BlockJudgement(
        finding=finding,
        reason=because.sentence(),
        side=side,
        others_influence=found.others_influence,
        scale_limit=found.scale_limit,
        half_limit=found.half_limit,
        excess_limit=found.excess_limit,
        influence_limit=found.influence_limit,
        others_departure=found.others_departure,
        suspicion=found.most,
    )


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

    def faint(self, limit: float, others: float) -> Phrase:
        return compose(
            "Block {} hardly changes its input: its influence is {}, below the limit of {}, where the median of the "
            "other blocks is {}; {}.",
            self._number,
            share(f"{self._at}/block_influence", self._block.block_influence),
            share(f"{self._at}/influence_limit", limit),
            share(f"{self._at}/others_influence", others),
            self._skip(),
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

    def silent(self) -> Phrase:
        """A half that adds nothing: the report's numbers are exact zeros."""
        half = silent_half(self._block)
        assert half is not None
        own = self._block.attention_scale if half == ATTENTION else self._block.mlp_scale
        other = self._block.mlp_scale if half == ATTENTION else self._block.attention_scale
        assert own is not None
        assert other is not None
        return compose(
            f"The {_HALVES[half]} of block {{}} adds nothing: scaling it changes no loss (z {{}}, mean {{}}), while "
            "the other half works (z {}).",
            self._number,
            z_value(f"{self._at}/{half}_scale/z", own.z),
            plain(f"{self._at}/{half}_scale/mean", own.mean),
            z_value(f"{self._at}/{_OTHER[half]}_scale/z", other.z),
        )

    def harm(self, limit: float) -> Phrase:
        """One half alone is too strong or does harm."""
        half = worst_half(self._block)
        assert half is not None
        score = self._block.attention_scale if half == ATTENTION else self._block.mlp_scale
        assert score is not None
        return compose(
            f"The {_HALVES[half]} of block {{}} is too strong or does harm: the loss falls when it alone is scaled "
            "down (z {}, beyond the limit of {}).",
            self._number,
            z_value(f"{self._at}/{half}_scale/z", score.z),
            tenths(f"{self._at}/half_limit", limit),
        )

    def excess(self, limit: float) -> Phrase:
        excess = self._block.excess_gain
        assert excess is not None
        return compose(
            "Block {} lags behind the others: {}, which is {} nats more than the median of the other blocks {}, beyond "
            "the limit of {}.",
            self._number,
            self._gain(),
            nats(f"{self._at}/excess_gain/estimate", excess.estimate),
            interval(f"{self._at}/excess_gain", excess, self._level),
            nats(f"{self._at}/excess_limit", limit),
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
