"""The peeling matrix as a heat map: a table whose cells hold their value and one of nine shades."""

import math
from dataclasses import dataclass

from peelbound.service.report import numbers
from peelbound.service.schemas.report import MatrixCell

TRIANGLE_UP_TO = 12
"""Blocks up to which the whole triangle is drawn; deeper networks show the band: a row per source."""

ROWS_PER_TABLE = 20

_SHADES = 8


@dataclass(frozen=True)
class Shade:
    """One cell as drawn; `value` is empty where nothing was measured."""

    value: str = ""
    shade: str = ""
    title: str = ""


@dataclass(frozen=True)
class HeatTable:
    """A table of cells: the columns' names, and rows of a name and its cells."""

    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Shade]]]


def heat_tables(cells: list[MatrixCell], blocks: int) -> list[HeatTable]:
    """The matrix as tables: from h[source] (rows) to h[target], or by width of the band for deep networks."""
    if not cells:
        return []
    by_place = {(c.source, c.target): c for c in cells}
    top = max((abs(c.loss_increase.estimate) for c in cells if math.isfinite(c.loss_increase.estimate)), default=0.0)
    sources = sorted({c.source for c in cells})
    if blocks <= TRIANGLE_UP_TO:
        targets = sorted({c.target for c in cells})
        rows = [(f"h{s}", [_shade(by_place.get((s, t)), top) for t in targets]) for s in sources]
        return [HeatTable("from \\ to", [f"h{t}" for t in targets], rows)]
    widths = sorted({c.target - c.source for c in cells})
    rows = [(f"h{s}", [_shade(by_place.get((s, s + w)), top) for w in widths]) for s in sources]
    columns = [f"{w} block{'s' if w > 1 else ''}" for w in widths]
    tables = math.ceil(len(rows) / ROWS_PER_TABLE)
    each = math.ceil(len(rows) / tables)
    return [HeatTable("from", columns, rows[i : i + each]) for i in range(0, len(rows), each)]


def _shade(cell: MatrixCell | None, top: float) -> Shade:
    if cell is None:
        return Shade()
    increase = cell.loss_increase
    stands_for = f"block {cell.target}" if cell.target - cell.source == 1 else f"blocks {cell.source + 1}–{cell.target}"
    title = f"h{cell.source} → h{cell.target}, in place of {stands_for}: {numbers.gain(increase)} nats"
    shade = _shade_class(increase.estimate, top)
    if cell.redundant:
        title, shade = f"{title}, redundant", f"{shade} redundant"
    return Shade(numbers.decimal(increase.estimate, 3), shade, title)


def _shade_class(value: float, top: float) -> str:
    """heat-0 … heat-8 by the square root of the share of the largest increase; a decrease is heat-below."""
    if not math.isfinite(value):
        return "heat-none"
    if value < 0:
        return "heat-below"
    return f"heat-{round(_SHADES * math.sqrt(value / top))}" if top > 0 else "heat-0"
