"""What a verdict says of redundant blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peelbound.service.redundancy import most_redundant
from peelbound.service.schemas.report import MatrixCell
from peelbound.service.words import Phrase, compose, enumerated, interval, nats, plain

_NAMED = 6
"""Further stretches of blocks that a sentence names; the matrix marks all."""


@dataclass(frozen=True)
class Limits:
    """Numbers of the report that a sentence on redundancy cites."""

    documents: Phrase
    """Of select, counted in words."""
    enough: Phrase
    tolerance: Phrase
    level: Phrase


def redundancy(matrix: Sequence[MatrixCell], limits: Limits) -> list[Phrase]:
    """The sentences on the blocks that are redundant, or that none are; none where no cell replaces two blocks."""
    cells = {at: cell for at, cell in enumerate(matrix) if cell.target - cell.source > 1}
    finite = [at for at, cell in cells.items() if math.isfinite(cell.loss_increase.estimate)]
    if not finite:
        return []
    if all(cells[at].redundant is None for at in finite):
        too_few = (
            "Whether neighbouring blocks are redundant is not tested: select has {}, {} are needed; supply more text, "
            "or let select have more sequences (--select-sequences)."
        )
        return [compose(too_few, limits.documents, limits.enough)]
    shown = most_redundant(matrix)
    if not shown:
        cheapest = min(finite, key=lambda at: cells[at].loss_increase.estimate)
        none = (
            "No neighbouring blocks are shown to be redundant: the cheapest to replace by one fresh block, {}, cost {} "
            "nats {} on select, and the tolerance is {}."
        )
        return [compose(none, *_measured(cheapest, cells[cheapest], limits.level), limits.tolerance)]
    first, *rest = shown
    found = (
        "Blocks {} are redundant: one fresh block in their place costs {} nats {} on select, less than the tolerance "
        "of {}."
    )
    return [compose(found, *_measured(first, cells[first], limits.level), limits.tolerance), *_further(rest, cells)]


def _further(shown: Sequence[int], cells: dict[int, MatrixCell]) -> list[Phrase]:
    if not shown:
        return []
    named = enumerated([_stretch(cells[at]) for at in shown[:_NAMED]])
    others = ", and others that the matrix marks" if len(shown) > _NAMED else ""
    each = f"So are {{}}{others}, each by themselves; what replacing several would cost together was not measured."
    ends = [nats(f"/matrix/{at}/loss_increase/high", cells[at].loss_increase.high) for at in shown[:_NAMED]]
    return [compose(each, named, because=ends)]


def _measured(at: int, cell: MatrixCell, level: Phrase) -> tuple[Phrase, Phrase, Phrase]:
    path, cost = f"/matrix/{at}/loss_increase", cell.loss_increase
    return _stretch(cell), nats(f"{path}/estimate", cost.estimate), interval(path, cost, level)


def _stretch(cell: MatrixCell) -> Phrase:
    return compose("{}–{}", *(plain(f"/blocks/{at}/index", at + 1) for at in (cell.source, cell.target - 1)))
