"""What bits cost, block by block: one panel over the axis of blocks, up to two marks at each."""

from collections.abc import Sequence

from markupsafe import Markup

from peelbound.service.report import numbers
from peelbound.service.report.charts import svg
from peelbound.service.report.charts.blocks import FOOTER, PANEL_HEIGHT, Panel, Point, depth_axis, panel_marks
from peelbound.service.schemas.report import BaselineReport, BlockBits, BlockReport, Interval, WhatIfReport

_LEFT, _RIGHT = -0.14, 0.14
"""Of a block's width: where its two marks stand."""
_TOP = 4.0


def rounding_chart(what_if: WhatIfReport) -> Markup:
    """Foretold and measured cost of rounding each block alone."""
    points = []
    for block in what_if.blocks:
        points += [_measured(block.index, block.cost), _other(block.index, block.predicted_cost)]
    panel = Panel("Cost, nats", "● measured  ◆ foretold", points, root=True)
    told = "; ".join(
        f"block {b.index}: measured {numbers.gain(b.cost)}, foretold {numbers.signed(b.predicted_cost)}"
        for b in what_if.blocks
    )
    return _picture("rounding-chart", f"Cost of rounding each block to {what_if.scheme}", told, panel)


def price_chart(blocks: Sequence[BlockBits]) -> Markup:
    """The price of each block's bits, and what solving it in its class gains."""
    points = []
    for block in blocks:
        own = block.free_gain.estimate - block.price.estimate
        points += [_measured(block.index, block.price), _other(block.index, own)]
    panel = Panel("Price, nats", "● price  ◆ own gain", points)
    told = "; ".join(f"block {b.index}: {numbers.gain(b.price)}" for b in blocks)
    return _picture("price-chart", "Price of each block’s bits", told, panel)


def damage_chart(baseline: BaselineReport, blocks: Sequence[BlockReport]) -> Markup:
    """What quantisation did to each block, and what re-solving it wins."""
    points = []
    for damaged, block in zip(baseline.blocks, blocks, strict=True):
        points += [_measured(damaged.index, damaged.damage), _other(block.index, block.gain.estimate)]
    panel = Panel("Damage, nats", "● damage  ◆ won back", points)
    told = "; ".join(f"block {b.index}: {numbers.gain(b.damage)}" for b in baseline.blocks)
    return _picture("damage-chart", "Damage by quantisation, block by block", told, panel)


def _measured(index: int, value: Interval) -> Point:
    return Point(index, value.estimate, value.low, value.high, shift=_LEFT)


def _other(index: int, value: float) -> Point:
    return Point(index, value, shape="diamond", class_="mark mlp", shift=_RIGHT)


def _picture(name: str, title: str, description: str, panel: Panel) -> Markup:
    blocks = max(point.block for point in panel.points)
    bottom = _TOP + PANEL_HEIGHT
    drawn = [*panel_marks(panel, blocks, _TOP), *depth_axis(blocks, bottom, set())]
    return svg.picture(name, title, f"{description}. The table has all numbers.", bottom + FOOTER, *drawn)
