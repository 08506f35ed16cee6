"""What is said of a quantised checkpoint beside the one before quantisation. Pure."""

from collections.abc import Sequence

from peelbound.service.check_size import CheckSize
from peelbound.service.schemas.report import BaselineReport, BlockReport, Interval, Sentence
from peelbound.service.words import Phrase, compose, enumerated, interval, nats, percent, plain

MOST_NAMED = 6
"""Damaged blocks that a sentence names; the table has all."""


def baseline_sentences(
    report: BaselineReport, blocks: Sequence[BlockReport], level: float, check: CheckSize
) -> list[Sentence]:
    """The sentences of the section; paths are those of the whole report."""
    said = [*check.too_few(), _whole(report, level, check)]
    if check.tests:
        said += [_dearest(report, level), *_won_back(report, blocks, level)]
    else:
        said.append(_largest(report, level))
    return [phrase.sentence() for phrase in said]


def _measured(path: str, value: Interval, level: float) -> tuple[Phrase, Phrase]:
    return nats(f"{path}/estimate", value.estimate), interval(path, value, percent("/settings/thresholds/level", level))


def _whole(report: BaselineReport, level: float, check: CheckSize) -> Phrase:
    cost = "quantisation cost {} nats {}"
    if not check.tests:
        cost = "the audited network's is put {} nats {} above it"
    elif report.damage.high < 0:
        cost = "the audited network's is lower, a cost of {} nats {}"
    elif report.damage.low <= 0:
        cost = "quantisation is not shown to have cost anything: {} nats {}"
    return compose(
        f"The baseline's loss on check is {{}} nats; {cost}.",
        nats("/baseline/loss", report.loss),
        *_measured("/baseline/damage", report.damage, level),
    )


def _largest(report: BaselineReport, level: float) -> Phrase:
    """Where nothing is tested: an order of estimates."""
    most = max(range(len(report.blocks)), key=lambda i: report.blocks[i].damage.estimate)
    path = f"/baseline/blocks/{most}"
    return compose(
        "Of the baseline's blocks, put in one at a time, block {} has the largest estimate of a gain: {} nats {}.",
        plain(f"{path}/index", report.blocks[most].index),
        *_measured(f"{path}/damage", report.blocks[most].damage, level),
    )


def _dearest(report: BaselineReport, level: float) -> Phrase:
    damaged = [i for i, block in enumerate(report.blocks) if block.damage.low > 0]
    damaged.sort(key=lambda i: -report.blocks[i].damage.estimate)
    if not damaged:
        most = max(range(len(report.blocks)), key=lambda i: report.blocks[i].damage.estimate)
        return compose(
            "No single block of the baseline, put in the place of the audited one's, wins anything that could be told "
            "from nothing.",
            because=[nats(f"/baseline/blocks/{most}/damage/low", report.blocks[most].damage.low)],
        )
    first = damaged[0]
    path = f"/baseline/blocks/{first}"
    if len(damaged) == 1:
        head = compose("Block {} of the baseline, put in,", plain(f"{path}/index", report.blocks[first].index))
    else:
        named = [plain(f"/baseline/blocks/{i}/index", report.blocks[i].index) for i in damaged[:MOST_NAMED]]
        head = compose(
            "Blocks {}{} were damaged, the worst first: the baseline's block {}, put in,",
            enumerated(named),
            compose(" and others" if len(damaged) > MOST_NAMED else ""),
            plain(f"{path}/index", report.blocks[first].index),
        )
    return compose("{} wins {} nats {}.", head, *_measured(f"{path}/damage", report.blocks[first].damage, level))


def _won_back(report: BaselineReport, blocks: Sequence[BlockReport], level: float) -> list[Phrase]:
    """What local re-solving wins, beside what was lost, where it is most."""
    most = max(range(len(blocks)), key=lambda i: blocks[i].gain.estimate)
    if blocks[most].gain.low <= 0:
        return [
            compose(
                "Re-solving single blocks of the quantised network wins nothing back that could be told from nothing.",
                because=[nats(f"/blocks/{most}/gain/low", blocks[most].gain.low)],
            )
        ]
    return [
        compose(
            "Re-solved locally, block {} wins {} nats {}; with the baseline's own block in its place it is {}.",
            plain(f"/blocks/{most}/index", blocks[most].index),
            *_measured(f"/blocks/{most}/gain", blocks[most].gain, level),
            nats(f"/baseline/blocks/{most}/damage/estimate", report.blocks[most].damage.estimate),
        )
    ]


def baseline_caveats() -> list[str]:
    """What the numbers beside a baseline do not say."""
    return [
        "A block of the baseline was trained among the baseline's others: among quantised ones it may win less than "
        "its own rounding lost, and what single blocks win does not add up to the whole."
    ]
