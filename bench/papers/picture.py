"""YES clouds as SVG files that stand alone: readable on light and dark pages, in a README or by themselves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from markupsafe import Markup

from peelbound.service.report.charts.scale import Scale, tick_label
from peelbound.service.report.charts.svg import tag

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 300, 190
_LEFT, _GAP, _TOP, _ROW_GAP, _BOTTOM, _RIGHT = 62, 26, 64, 62, 86, 22

_STYLE = """
svg { --paper: #fdfdfb; --ink: #1d2126; --quiet: #5b626b; --grid: #e2e1da; --trained: #0b5a94; --control: #6b3fa0;
  --bound: #1a5c40; --worse: #f6d3ca; --between: #faecb4; --best: #cfe8da; --start: #93301f; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #15181c; --ink: #e4e6e8; --quiet: #9aa2ab; --grid: #363c44; --trained: #6cb6f0; --control: #c3a3f0;
    --bound: #7fd1a8; --worse: #4a2722; --between: #453b1b; --best: #1d3b2d; --start: #ff9a8d; } }
text { font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--ink); }
.title { font-size: 15px; font-weight: 600; } .heading { font-weight: 600; } .quiet { fill: var(--quiet); }
.paper { fill: var(--paper); } .grid { stroke: var(--grid); stroke-width: 1; }
.worse { fill: var(--worse); } .between { fill: var(--between); } .best { fill: var(--best); }
.trained, .checkpoint, .control, .bound, .start { fill: none; stroke-width: 2; }
.trained { stroke: var(--trained); stroke-width: 1.5; opacity: 0.75; } .checkpoint { stroke: var(--trained); }
.control { stroke: var(--control); stroke-dasharray: 6 4; }
.bound { stroke: var(--bound); } .start { stroke: var(--start); }
.dot { stroke: none; } .dot.trained, .dot.checkpoint { fill: var(--trained); } .dot.control { fill: var(--control); }
.dot.bound { fill: var(--bound); } .dot.start { fill: var(--start); }
"""


class Role(StrEnum):
    """What a curve is; decides how it is drawn."""

    TRAINED = "trained"
    CHECKPOINT = "checkpoint"
    CONTROL = "control"
    BOUND = "bound"
    START = "start"


@dataclass(frozen=True)
class Curve:
    """A line; `dots` marks its points, as of audited checkpoints."""

    label: str
    role: Role
    points: Points
    dots: bool = False


@dataclass(frozen=True)
class Bands:
    """YES-0 over steps and the smallest bound over steps: worse above the first, best below the second."""

    zero: Points
    smallest: Points


@dataclass(frozen=True)
class Panel:
    """One plot."""

    title: str
    curves: Sequence[Curve]
    bands: Bands | None = None


def draw(
    title: str,
    rows: Sequence[Sequence[Panel]],
    *,
    x_title: str,
    y_title: str,
    unit: str = "nats",
    decimals: int = 2,
    headroom: float = 0.35,
) -> str:
    """All panels as one SVG document; panels share one vertical scale, so that they can be compared.

    Args:
        rows: panels by row.
        x_title: what runs along.
        y_title: what is drawn.
        unit: of the numbers in the description.
        decimals: of those numbers.
        headroom: how far above the bands and checkpoints the scale reaches, as a share of their spread; the beginning
            of a loss curve, far above all that matters, is cut there.
    """
    columns = max(len(row) for row in rows)
    width = _LEFT + columns * _WIDTH + (columns - 1) * _GAP + _RIGHT
    height = _TOP + len(rows) * _HEIGHT + (len(rows) - 1) * _ROW_GAP + _BOTTOM
    panels = [panel for row in rows for panel in row]
    low, high = _range(panels, headroom)
    content = [
        tag("title", title),
        tag("desc", _description(panels, unit, decimals)),
        tag("style", Markup(_STYLE)),  # noqa: S704 - our own style sheet
        tag("rect", width=width, height=height, rx=6, class_="paper"),
        tag("text", title, x=_LEFT, y=26, class_="title"),
        tag("text", y_title, x=_LEFT, y=44, class_="quiet"),
    ]
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            left, top = _LEFT + c * (_WIDTH + _GAP), _TOP + r * (_HEIGHT + _ROW_GAP)
            y = Scale(low, high, top + _HEIGHT, top)
            content += _panel(panel, f"clip-{r}-{c}", left, top, y, labelled=c == 0, x_title=x_title)
    content += _legend(panels, height - 26)
    return str(
        tag(
            "svg",
            *content,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {width} {height}",
            width=width,
            height=height,
            role="img",
        )
    )


def _range(panels: Sequence[Panel], headroom: float) -> tuple[float, float]:
    """Of all that is drawn but the beginnings of loss curves."""
    values = [
        value
        for panel in panels
        for points in (
            *(_finite(c.points) if c.dots else _finite(c.points)[-1:] for c in panel.curves),
            *((panel.bands.zero, panel.bands.smallest) if panel.bands else ()),
        )
        for _, value in points
    ]
    low, high = min(values), max(values)
    spread = max(high - low, 1e-3)
    return low - 0.12 * spread, high + headroom * spread


def _panel(panel: Panel, clip: str, left: float, top: float, y: Scale, *, labelled: bool, x_title: str) -> list[Markup]:
    last = max(step for curve in panel.curves for step, _ in curve.points)
    x = Scale(0.0, float(last), left, left + _WIDTH)
    bottom = top + _HEIGHT
    drawn = [
        tag("clipPath", tag("rect", x=left, y=top, width=_WIDTH, height=_HEIGHT), id=clip),
        tag("text", panel.title, x=left, y=top - 6, class_="heading"),
    ]
    inside = _bands(panel.bands, x, y, left, top) if panel.bands else []
    for tick in y.ticks(5):
        inside.append(tag("line", x1=left, x2=left + _WIDTH, y1=y(tick), y2=y(tick), class_="grid"))
        if labelled:
            drawn.append(tag("text", tick_label(tick), x=left - 6, y=y(tick) + 4, text_anchor="end", class_="quiet"))
    for curve in panel.curves:
        inside += _curve(curve, x, y)
    drawn.append(tag("g", *inside, clip_path=f"url(#{clip})"))
    drawn += [
        tag("text", tick_label(tick), x=x(tick), y=bottom + 15, text_anchor="middle", class_="quiet")
        for tick in x.ticks(4)
    ]
    drawn.append(tag("text", x_title, x=left + _WIDTH, y=bottom + 30, text_anchor="end", class_="quiet"))
    return drawn


def _bands(bands: Bands, x: Scale, y: Scale, left: float, top: float) -> list[Markup]:
    """Painted from worst to best; the first and last values reach to the plot's edges."""
    right, bottom = left + _WIDTH, top + _HEIGHT
    drawn = [tag("rect", x=left, y=top, width=_WIDTH, height=_HEIGHT, class_="worse")]
    for points, role in ((bands.zero, "between"), (bands.smallest, "best")):
        places = [(x(step), y(value)) for step, value in points]
        edge = [(left, places[0][1]), *places, (right, places[-1][1]), (right, bottom), (left, bottom)]
        drawn.append(tag("polygon", points=_places(edge), class_=role))
    return drawn


def _curve(curve: Curve, x: Scale, y: Scale) -> list[Markup]:
    # Scale holds values within the plot, which would draw a curve's cut-off beginning along the edge.
    per_unit = (y.end - y.start) / (y.high - y.low)
    places = [(x(step), y.start + (value - y.low) * per_unit) for step, value in _finite(curve.points)]
    drawn = [tag("polyline", points=_places(places), class_=curve.role.value)]
    if curve.dots:
        drawn += [tag("circle", cx=a, cy=b, r=3.5, class_=f"dot {curve.role.value}") for a, b in places]
    return drawn


def _finite(points: Points) -> Points:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _places(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in places)


def _legend(panels: Sequence[Panel], y: float) -> list[Markup]:
    curves = {curve.label: curve for panel in panels for curve in panel.curves}
    drawn, at = [], float(_LEFT)
    for label, curve in curves.items():
        drawn.append(tag("line", x1=at, x2=at + 22, y1=y - 4, y2=y - 4, class_=curve.role.value))
        if curve.dots:
            drawn.append(tag("circle", cx=at + 11, cy=y - 4, r=3.5, class_=f"dot {curve.role.value}"))
        drawn.append(tag("text", label, x=at + 28, y=y))
        at += 46 + 6.4 * len(label)
    if any(panel.bands for panel in panels):
        for label, role in (("worse than YES-0", "worse"), ("between", "between"), ("better than every bound", "best")):
            drawn.append(tag("rect", x=at, y=y - 11, width=16, height=12, class_=role))
            drawn.append(tag("text", label, x=at + 22, y=y))
            at += 40 + 6.4 * len(label)
    return drawn


def _description(panels: Sequence[Panel], unit: str, decimals: int) -> str:
    return " ".join(
        f"{panel.title}: "
        + ", ".join(f"{c.label} ends at {c.points[-1][1]:.{decimals}f} {unit}" for c in panel.curves if c.points)
        + "."
        for panel in panels
    )
