"""What is said of rounding a model that is not low-bit yet: which blocks it may take. Pure."""

from peelbound.service.check_size import CheckSize
from peelbound.service.schemas.report import Interval, Sentence, WhatIfReport
from peelbound.service.words import Phrase, compose, enumerated, interval, nats, percent, plain, share


def what_if_sentences(report: WhatIfReport, tolerance: float, level: float, check: CheckSize) -> list[Sentence]:
    """The sentences of the section; paths are those of the whole report."""
    said = [*check.too_few(), _together(report, level)]
    if check.tests:
        said.append(_enough(report, tolerance, level))
    said.append(_dearest(report, level))
    if check.tests:
        said += _re_solved(report, level)
    said += _foretold(report)
    return [phrase.sentence() for phrase in said]


def _measured(path: str, value: Interval, level: float) -> tuple[Phrase, Phrase]:
    return nats(f"{path}/estimate", value.estimate), interval(path, value, percent("/settings/thresholds/level", level))


def _costs(path: str, value: Interval, level: float) -> Phrase:
    said = "costs {} nats {}" if value.low > 0 else "is not shown to cost anything, {} nats {}"
    return compose(said, *_measured(path, value, level))


def _scheme(report: WhatIfReport) -> Phrase:
    return plain("/what_if/scheme", report.scheme)


def _tolerance(tolerance: float) -> Phrase:
    return nats("/settings/plan/tolerance", tolerance)


def _together(report: WhatIfReport, level: float) -> Phrase:
    return compose(
        "On check, rounding the linear maps of all blocks to {} {}.",
        _scheme(report),
        _costs("/what_if/mixes/0/cost", report.mixes[0].cost, level),
    )


def _enough(report: WhatIfReport, tolerance: float, level: float) -> Phrase:
    """Which blocks must stay as they are for the whole to stay within the tolerance."""
    if report.enough is None:
        last = len(report.mixes) - 1
        return compose(
            "No mix that was measured is shown to cost at most {} nats; the one that keeps the most, {} in full "
            "precision, costs {} nats {}.",
            _tolerance(tolerance),
            _blocks(report, last),
            *_measured(f"/what_if/mixes/{last}/cost", report.mixes[last].cost, level),
        )
    if report.enough == 0:
        return compose(
            "Every block may be rounded: the cost of all together lies within the tolerance of {} nats.",
            _tolerance(tolerance),
            because=[nats("/what_if/mixes/0/cost/high", report.mixes[0].cost.high)],
        )
    return compose(
        "Keep {} in full precision: rounding all the others then costs {} nats {} instead of {}, within the tolerance "
        "of {} nats.",
        _blocks(report, report.enough),
        *_measured(f"/what_if/mixes/{report.enough}/cost", report.mixes[report.enough].cost, level),
        nats("/what_if/mixes/0/cost/estimate", report.mixes[0].cost.estimate),
        _tolerance(tolerance),
    )


def _blocks(report: WhatIfReport, mix: int) -> Phrase:
    kept = report.mixes[mix].kept
    if not kept:
        return compose("none")
    named = [plain(f"/what_if/mixes/{mix}/kept/{i}", block) for i, block in enumerate(kept)]
    return compose("block {}" if len(named) == 1 else "blocks {}", enumerated(named))


def _dearest_on_select(report: WhatIfReport) -> int:
    """Position of the block that is named: chosen on select, so that what is said of it on check is no lucky draw."""
    return max(range(len(report.blocks)), key=lambda i: report.blocks[i].select_cost)


def _dearest(report: WhatIfReport, level: float) -> Phrase:
    at = _dearest_on_select(report)
    path, block = f"/what_if/blocks/{at}", report.blocks[at]
    return compose(
        "On check, block {}, the dearest on select, rounded alone {}; foretold were {}.",
        plain(f"{path}/index", block.index),
        _costs(f"{path}/cost", block.cost, level),
        nats(f"{path}/predicted_cost", block.predicted_cost),
    )


def _re_solved(report: WhatIfReport, level: float) -> list[Phrase]:
    """What solving the dearest block anew wins back."""
    at = _dearest_on_select(report)
    path, block = f"/what_if/blocks/{at}", report.blocks[at]
    if block.recovered.low <= 0:
        return []
    return [
        compose(
            "Rounded and then re-solved in the class, block {} wins {} nats {} over rounding alone.",
            plain(f"{path}/index", block.index),
            *_measured(f"{path}/recovered", block.recovered, level),
        )
    ]


def _foretold(report: WhatIfReport) -> list[Phrase]:
    if report.rank_agreement is None:
        return []
    return [
        compose(
            "The rank correlation of foretold and measured costs over the blocks is {}.",
            share("/what_if/rank_agreement", report.rank_agreement),
        )
    ]


def what_if_caveats() -> list[str]:
    """What the numbers on rounding do not say."""
    return [
        "What rounding costs is measured for rounding to nearest; methods that choose codes with data lose less.",
        "What re-solving a rounded block wins includes what training had left undone in it.",
        "Foretold costs hold for small changes: where rounding turns a block's output far, the measured one counts.",
    ]
