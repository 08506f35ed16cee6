"""What the peeling matrix says of pruning: neighbouring blocks that one fresh block can replace."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peelbound.service.schemas.report import Interval, MatrixCell
from peelbound.service.words import Phrase, compose, enumerated, interval, nats, plain

_NAMED = 6
"""Stretches of blocks that a sentence names; the matrix marks all."""


def is_redundant(cost: Interval, width: int, documents: int, *, enough: int, tolerance: float) -> bool | None:
    """Whether `width` neighbouring blocks are more than their work takes.

    They are where one fresh block in their place costs less than the tolerance, with the upper end of its interval.
    Which of them could go is not said: of two blocks that do the same, either could.

    Args:
        cost: what the fresh block costs, in nats, on documents that its fit did not see.
        width: blocks that it replaces.
        documents: of that measurement.
        enough: documents that a test takes.
        tolerance: nats that do not matter to the user.

    Returns:
        None where nothing is tested: with too few documents, and for a single block, whose place stays filled.
    """
    if width < 2 or documents < enough:
        return None
    return cost.high < tolerance


def most_redundant(matrix: Sequence[MatrixCell]) -> list[int]:
    """Positions of the cells whose blocks are redundant: those that replace most first, and of those the cheapest."""
    shown = [at for at, cell in enumerate(matrix) if cell.redundant]
    return sorted(shown, key=lambda at: (matrix[at].source - matrix[at].target, matrix[at].loss_increase.estimate))


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
        too_few = "Whether neighbouring blocks are redundant is not tested: select has {}, {} are needed."
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
        "One fresh block can replace {}, which makes these redundant: it costs {} nats {} on select, less than the "
        "tolerance of {}."
    )
    said = compose(found, *_measured(first, cells[first], limits.level), limits.tolerance)
    return [said, *_further(rest, cells)]


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
    first, last = (plain(f"/blocks/{at}/index", at + 1) for at in (cell.source, cell.target - 1))
    return compose("blocks {} and {}" if cell.target - cell.source == 2 else "blocks {} to {}", first, last)
