"""Evidence along the depth of the network: small multiples over one axis of blocks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from markupsafe import Markup

from peelbound.service.report import numbers
from peelbound.service.report.charts import lettering, svg
from peelbound.service.report.charts.scale import Scale, block_ticks, tick_label
from peelbound.service.schemas.report import BlockFinding, BlockReport, Interval

_LANE, _TITLE, _PLOT, _GAP, FOOTER = 15, 24, 88, 20, 36
PANEL_HEIGHT = _TITLE + _PLOT

PLOT_WIDTH = lettering.PAGE - 72
"""Pixels across on a phone: less the room that the style sheet leaves at the sides."""
_NAME_GAP = 6

_FINDING_SHAPES = {BlockFinding.INERT: "square", BlockFinding.LAGGING: "triangle", BlockFinding.UNTRAINED: "falling"}
"""Those of `wording.GLYPHS`."""


@dataclass(frozen=True)
class Point:
    """A value at a block, with its interval if one was measured, moved sideways by `shift` of a block's width."""

    block: int
    value: float
    low: float | None = None
    high: float | None = None
    shape: str = "circle"
    class_: str = "mark"
    shift: float = 0.0


@dataclass(frozen=True)
class Limit:
    """A line across a block's width."""

    block: int
    value: float
    class_: str = "limit"


@dataclass(frozen=True)
class Panel:
    """One measurement over the blocks."""

    title: str
    hint: str
    points: list[Point]
    root: bool = False
    limits: list[Limit] = field(default_factory=list)
    """Beyond which values accuse their block."""


@dataclass(frozen=True)
class _ColumnName:
    """The name over shaded columns; lanes count upwards."""

    text: str
    finding: BlockFinding
    x: float
    anchor: str
    lane: int


def panels(blocks: Sequence[BlockReport]) -> list[Panel]:
    """The four measurements that findings rest on."""
    return [
        Panel("Gain, nats", "above 0: better re-solved", _intervals(blocks, _gain), limits=_gain_limits(blocks)),
        Panel("Skip cost, nats", "near 0: it does nothing", _intervals(blocks, _skip), root=True),
        Panel(
            "Block influence",
            "how far it turns states",
            _influences(blocks),
            root=True,
            limits=_finite([Limit(b.index, b.influence_limit) for b in blocks if b.influence_limit is not None]),
        ),
        Panel("Scale score, z", _scores_hint(blocks), _scores(blocks), limits=_score_limits(blocks)),
    ]


def _gain(block: BlockReport) -> Interval:
    return block.gain


def _skip(block: BlockReport) -> Interval:
    return block.skip_cost


def _intervals(blocks: Sequence[BlockReport], pick: Callable[[BlockReport], Interval]) -> list[Point]:
    points = []
    for block in blocks:
        value = pick(block)
        shape, class_ = _look(block)
        points.append(Point(block.index, value.estimate, value.low, value.high, shape, class_))
    return points


def _influences(blocks: Sequence[BlockReport]) -> list[Point]:
    return [Point(b.index, b.block_influence, shape=_look(b)[0], class_=_look(b)[1]) for b in blocks]


def _look(block: BlockReport) -> tuple[str, str]:
    return _FINDING_SHAPES.get(block.finding, "circle"), f"mark {block.finding}"


def _has_sublayers(blocks: Sequence[BlockReport]) -> bool:
    return any(b.attention_scale is not None or b.mlp_scale is not None for b in blocks)


def _scores_hint(blocks: Sequence[BlockReport]) -> str:
    return "● attention  ◆ MLP" if _has_sublayers(blocks) else "of the whole block"


def _gain_limits(blocks: Sequence[BlockReport]) -> list[Limit]:
    """What is asked of the excess over the others' median gain, drawn from that median."""
    found = []
    for b in blocks:
        if b.excess_gain is not None and b.excess_limit is not None:
            others = b.gain.estimate - b.excess_gain.estimate
            found.append(Limit(b.index, others + b.excess_limit))
    return _finite(found)


def _score_limits(blocks: Sequence[BlockReport]) -> list[Limit]:
    """What both scores must exceed on either side, and what one alone must on the side of harm."""
    found = []
    for b in blocks:
        if b.scale_limit is not None:
            found += [Limit(b.index, -b.scale_limit), Limit(b.index, b.scale_limit)]
        if b.half_limit is not None:
            found.append(Limit(b.index, b.half_limit, "limit alone"))
    return _finite(found)


def _finite(limits: Sequence[Limit]) -> list[Limit]:
    return [limit for limit in limits if math.isfinite(limit.value)]


def _scores(blocks: Sequence[BlockReport]) -> list[Point]:
    if not _has_sublayers(blocks):
        return [Point(b.index, b.block_scale.z, class_="mark attention") for b in blocks]
    points = []
    for b in blocks:
        if b.attention_scale is not None:
            points.append(Point(b.index, b.attention_scale.z, class_="mark attention", shift=-0.14))
        if b.mlp_scale is not None:
            points.append(Point(b.index, b.mlp_scale.z, shape="diamond", class_="mark mlp", shift=0.14))
    return points


def blocks_chart(blocks: Sequence[BlockReport]) -> Markup:
    """All panels in one picture; blocks that are not sound are a named column through all of them."""
    K, names = len(blocks), _column_names(blocks)
    header = 7.0 + _LANE * (1 + max((name.lane for name in names), default=0))
    drawn_panels = panels(blocks)
    step = _TITLE + _PLOT + _GAP
    bottom = header + step * len(drawn_panels) - _GAP
    content = [_column(b, K, header - 4, bottom) for b in blocks if b.finding is not BlockFinding.SOUND]
    content += [_column_label(name, header) for name in names]
    for i, panel in enumerate(drawn_panels):
        content += panel_marks(panel, K, header + step * i)
    content += depth_axis(K, bottom, {b.index for b in blocks if b.finding is not BlockFinding.SOUND})
    content += [_tooltip(block, K, header, bottom) for block in blocks]
    return svg.picture("blocks-chart", "Evidence per block", _description(blocks), bottom + FOOTER, *content)


def _x(block: int, K: int, shift: float = 0.0) -> float:
    return (block - 0.5 + shift) / K * 100


def _column(block: BlockReport, K: int, top: float, bottom: float) -> Markup:
    return svg.rect((block.index - 1) / K * 100, top, 100 / K, bottom - top, f"column {block.finding}")


def _column_names(blocks: Sequence[BlockReport]) -> list[_ColumnName]:
    """A name for each run of neighbours with one finding, in the lowest lane where it touches no other."""
    K, lanes, names = len(blocks), list[float](), list[_ColumnName]()
    for finding, run in groupby(blocks, key=lambda block: block.finding):
        indices = [block.index for block in run]
        if finding is BlockFinding.SOUND:
            continue
        x = (_x(indices[0], K) + _x(indices[-1], K)) / 2
        text, anchor = f"{_span(indices)} {finding}", "start" if x < 12 else "end" if x > 88 else "middle"
        here = lettering.extent(text, x / 100 * PLOT_WIDTH, anchor, bold=True)
        lane = next((i for i, end in enumerate(lanes) if end + _NAME_GAP <= here[0]), len(lanes))
        lanes[lane : lane + 1] = [here[1]]
        names.append(_ColumnName(text, finding, x, anchor, lane))
    return names


def _column_label(name: _ColumnName, header: float) -> Markup:
    y = header - 10 - _LANE * name.lane
    return svg.text(name.text, name.x, y, anchor=name.anchor, class_=f"named {name.finding}")


def _span(indices: Sequence[int]) -> str:
    return str(indices[0]) if len(indices) == 1 else f"{indices[0]}–{indices[-1]}"


def panel_marks(panel: Panel, K: int, top: float) -> list[Markup]:
    """A panel of `PANEL_HEIGHT` pixels below `top`: its title, axis, and a mark for each point."""
    values = [v for p in panel.points for v in (p.value, p.low, p.high)]
    values += [limit.value for limit in panel.limits]
    floor = top + _TITLE + _PLOT
    scale = Scale.fitting(values, floor, top + _TITLE, root=panel.root)
    title = svg.tag(
        "text",
        svg.tag("tspan", panel.title, class_="panel-title"),
        svg.tag("tspan", panel.hint, class_="hint", dx=8),
        x="0%",
        y=top + 12,
    )
    drawn = [title]
    ticks = scale.ticks(3 if panel.root else 4)
    for tick in ticks:
        y = scale(tick)
        drawn += [
            svg.line(0, y, 100, y, "zero" if tick == 0 else "grid"),
            svg.text(tick_label(tick), 0, y + 4, anchor="end", dx=-8, class_="tick"),
        ]
    for limit in panel.limits:
        left, right, y = _x(limit.block, K, -0.4), _x(limit.block, K, 0.4), scale(limit.value)
        drawn.append(svg.line(left, y, right, y, limit.class_))
    radius = 4.2 if K <= 16 else 3.2 if K <= 40 else 2.4
    for point in panel.points:
        x = _x(point.block, K, point.shift)
        if point.low is not None and point.high is not None and math.isfinite(point.low) and math.isfinite(point.high):
            drawn.append(svg.line(x, scale(point.low), x, scale(point.high), f"whisker {point.class_}"))
        if math.isfinite(point.value):
            # Named blocks must be found among a hundred.
            size = max(radius, 3.8) if point.shape in _FINDING_SHAPES.values() else radius
            drawn.append(svg.mark(point.shape, x, scale(point.value), size, point.class_))
    return drawn


def depth_axis(K: int, bottom: float, named: set[int]) -> list[Markup]:
    """The blocks' numbers below the panels, those of `named` in bold."""
    drawn = [
        svg.text(str(i), _x(i, K), bottom + 17, anchor="middle", class_="tick strong" if i in named else "tick")
        for i in block_ticks(K)
    ]
    return [*drawn, svg.text("block", 0, bottom + 17, anchor="end", dx=-8, class_="tick")]


def _tooltip(block: BlockReport, K: int, top: float, bottom: float) -> Markup:
    lines = [
        f"Block {block.index}: {block.finding}",
        f"gain {numbers.gain(block.gain)}",
        f"skip cost {numbers.interval(block.skip_cost)}",
        f"influence {numbers.decimal(block.block_influence)}",
        f"scale z: attention {numbers.score(block.attention_scale)}, MLP {numbers.score(block.mlp_scale)}, "
        f"block {numbers.score(block.block_scale)}",
    ]
    title = svg.tag("title", "\n".join(lines))
    return svg.rect((block.index - 1) / K * 100, top, 100 / K, bottom - top, "hover", title)


def _description(blocks: Sequence[BlockReport]) -> str:
    named = [f"block {b.index} is {b.finding}" for b in blocks if b.finding is not BlockFinding.SOUND]
    found = "; ".join(named) or "all blocks are sound"
    measured = "Gain, skip cost, block influence and scale scores"
    return f"{measured} of {len(blocks)} blocks: {found}. The table has all numbers."
