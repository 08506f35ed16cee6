"""The YES cloud: training loss over the steps of a run, drawn over the bands that the bounds make."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from markupsafe import Markup

from peelbound.service.report import numbers
from peelbound.service.report.charts import lettering, svg
from peelbound.service.report.charts.scale import Scale, tick_label
from peelbound.service.schemas.record import RunPoint, RunSeries

_TOP, _PLOT, _FOOTER, _LABEL_GAP = 12, 300, 40, 15
_WIDTH = 1000
"""Units across the stretched layer of bands and lines."""
_PLOT_WIDTH = lettering.PAGE - 132
"""Pixels across on a phone: less the room that the style sheet leaves at the sides."""


class Split(StrEnum):
    """The tokens that losses and bounds were measured on."""

    FIT = "fit"
    CHECK = "check"


@dataclass(frozen=True)
class CloudPoint:
    """One step of the cloud; losses in nats per token on one split."""

    at: float
    name: str
    trained: float
    head_control: float
    logged: float | None
    yes0: float | None
    bound: float | None
    current: bool = False


def cloud_points(series: RunSeries, split: Split, current: str | None = None) -> list[CloudPoint]:
    """The run's audited steps in order: the latest audit of each step, by its time-sorted id.

    Where no audit has a step they stand in order of submission; `current` is the id of the audit to mark.
    """
    done = sorted((p for p in series.points if p.summary is not None), key=lambda p: p.audit_id)
    if any(p.step is not None for p in done):
        latest = {p.step: p for p in done if p.step is not None}
        return [_point(latest[step], float(step), f"step {step:,}", split, current) for step in sorted(latest)]
    return [_point(p, float(i), f"audit {i}", split, current) for i, p in enumerate(done, start=1)]


def _point(point: RunPoint, at: float, name: str, split: Split, current: str | None) -> CloudPoint:
    assert point.summary is not None
    cloud, fit = point.summary.cloud, split is Split.FIT
    return CloudPoint(
        at,
        name,
        trained=cloud.trained_fit if fit else cloud.trained_check,
        head_control=cloud.head_control_fit if fit else cloud.head_control_check,
        logged=point.training_loss,
        yes0=cloud.yes0_fit if fit else cloud.yes0_check,
        bound=cloud.bound_fit if fit else cloud.bound_check,
        current=point.audit_id == current,
    )


def cloud_chart(name: str, points: Sequence[CloudPoint], split: Split) -> Markup:
    """Bands, lines and points over the steps; empty where nothing was audited."""
    if not points:
        return Markup("")
    values = [v for p in points for v in (p.trained, p.logged, p.yes0, p.bound, p.head_control)]
    y = Scale.fitting(values, _TOP + _PLOT, _TOP, zero=False, pad=0.1)
    x = _steps_scale(points)
    lines = {
        "trained": _track(points, [p.trained for p in points], x, y),
        "control": _track(points, [p.head_control for p in points], x, y),
        "logged": _track(points, [p.logged for p in points], x, y),
    }
    yes0 = _edges(_track(points, [p.yes0 for p in points], x, y))
    bound = _edges(_track(points, [_lowest(p) for p in points], x, y))
    content = [*_bands(yes0, bound), _stretched(*[_path(track, f"track {key}") for key, track in lines.items()])]
    content += [*_y_axis(y), *_x_axis(points, x)]
    content += _marks(points, x, y)
    ends = {"logged": lines["logged"], "head control": lines["control"], "trained": lines["trained"]}
    content += _end_labels(ends | {"YES-0": yes0, "bound": bound})
    content += [_tooltip(points, i, x, split) for i in range(len(points))]
    title = f"YES cloud on {split}"
    return svg.picture(name, title, _description(points, split), _TOP + _PLOT + _FOOTER, *content)


Track = list[tuple[float, float]]


def _lowest(point: CloudPoint) -> float | None:
    """The lowest reference loss. On check the network that select picked can be worse than YES-0; on fit it cannot."""
    if point.bound is None or point.yes0 is None:
        return point.bound
    return min(point.bound, point.yes0)


def _steps_scale(points: Sequence[CloudPoint]) -> Scale:
    first, last = points[0].at, points[-1].at
    air = 0.03 * (last - first) or 1.0
    return Scale(first - air, last + air, 0, 100)


def _track(points: Sequence[CloudPoint], values: Sequence[float | None], x: Scale, y: Scale) -> Track:
    return [(x(p.at), y(v)) for p, v in zip(points, values, strict=True) if v is not None and math.isfinite(v)]


def _edges(track: Track) -> Track:
    """A bound carried level to both edges of the plot: it holds for the steps next to it as well as it can."""
    return [(0.0, track[0][1]), *track, (100.0, track[-1][1])] if track else []


def _stretched(*content: Markup) -> Markup:
    """A layer in which x runs from 0 to `_WIDTH` whatever the width of the page: polygons know no per cent."""
    return svg.tag(
        "svg", *content, x="0", y=0, width="100%", height=_TOP + _PLOT, preserveAspectRatio="none",
        viewBox=f"0 0 {_WIDTH} {_TOP + _PLOT}",
    )  # fmt: skip


def _coordinates(track: Track) -> str:
    return " ".join(f"{svg.number(x / 100 * _WIDTH)},{svg.number(y)}" for x, y in track)


def _path(track: Track, class_: str) -> Markup:
    return svg.tag("polyline", points=_coordinates(track), class_=class_)


def _bands(yes0: Track, bound: Track) -> list[Markup]:
    if not yes0 or not bound:
        return []
    ceiling: Track = [(0.0, float(_TOP)), (100.0, float(_TOP))]
    floor: Track = [(0.0, float(_TOP + _PLOT)), (100.0, float(_TOP + _PLOT))]
    areas = (("worse", ceiling, yes0), ("between", yes0, bound), ("best", bound, floor))
    polygons = [
        svg.tag("polygon", points=_coordinates([*a, *reversed(b)]), class_=f"band {key}") for key, a, b in areas
    ]
    lines = [_path(yes0, "edge yes0"), _path(bound, "edge bound")]
    return [_stretched(*polygons, *lines), *_band_names(yes0, bound)]


def _band_names(yes0: Track, bound: Track) -> list[Markup]:
    """Each band's name within it; for the middle one on the side where the band leaves room, if any does."""
    names = [
        svg.text("worse than YES-0", 100, _TOP + 16, anchor="end", dx=-8, class_="band-name worse"),
        svg.text("better than all", 0, _TOP + _PLOT - 10, dx=8, class_="band-name best"),
    ]
    for x, inner, anchor, dx in ((100.0, 70.0, "end", -8), (0.0, 30.0, "start", 8)):
        top = max(_height(yes0, x), _height(yes0, inner))
        bottom = min(_height(bound, x), _height(bound, inner))
        if bottom - top > _LABEL_GAP:
            at = (top + bottom) / 2 + 4
            return [*names, svg.text("between", x, at, anchor=anchor, dx=dx, class_="band-name between")]
    return names


def _height(track: Track, x: float) -> float:
    """The height of a track at x, straight between its points."""
    for (x0, y0), (x1, y1) in pairwise(track):
        if x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return track[-1][1]


def _y_axis(y: Scale) -> list[Markup]:
    ticks = y.ticks(5)
    drawn = []
    for tick in ticks:
        at = y(tick)
        drawn += [
            svg.line(0, at, 100, at, "grid over"),
            svg.text(tick_label(tick), 0, at + 4, anchor="end", dx=-8, class_="tick"),
        ]
    return drawn


def _x_axis(points: Sequence[CloudPoint], x: Scale) -> list[Markup]:
    base = _TOP + _PLOT
    drawn = [svg.line(0, base, 100, base, "axis")]
    labels = [f"{point.at:,.0f}" for point in points]
    extents = [
        lettering.extent(label, x(point.at) / 100 * _PLOT_WIDTH, "middle")
        for label, point in zip(labels, points, strict=True)
    ]
    # From the right, so that the last step always has its number.
    numbered = lettering.apart(extents, reversed(range(len(points))))
    for i, point in enumerate(points):
        at = x(point.at)
        drawn.append(svg.line(at, base, at, base + 4, "axis"))
        if i in numbered:
            drawn.append(svg.text(labels[i], at, base + 18, anchor="middle", class_="tick"))
    unit = points[0].name.split(" ")[0]
    return [*drawn, svg.text(unit, 50, base + 35, anchor="middle", class_="hint")]


def _marks(points: Sequence[CloudPoint], x: Scale, y: Scale) -> list[Markup]:
    drawn = []
    radius = 4.0 if len(points) <= 40 else 2.2
    for point in points:
        at = x(point.at)
        if point.logged is not None and math.isfinite(point.logged):
            drawn.append(svg.mark("cross", at, y(point.logged), radius * 0.8, "mark logged"))
        if math.isfinite(point.head_control):
            drawn.append(svg.mark("square", at, y(point.head_control), radius * 0.7, "mark control"))
        if math.isfinite(point.trained):
            if point.current:
                drawn.append(svg.mark("circle", at, y(point.trained), radius * 2.2, "ring"))
            drawn.append(svg.mark("circle", at, y(point.trained), radius, "mark trained"))
    return drawn


def _end_labels(tracks: dict[str, Track]) -> list[Markup]:
    """Each line's name at its right end; names that would touch are moved apart."""
    ends = sorted((track[-1][1], name) for name, track in tracks.items() if track)
    placed: list[float] = []
    for at, _ in ends:
        placed.append(max(at, placed[-1] + _LABEL_GAP) if placed else at)
    overflow = (placed[-1] if placed else 0.0) - (_TOP + _PLOT)
    if overflow > 0:
        limit = float(_TOP + _PLOT)
        for i in range(len(placed) - 1, -1, -1):
            placed[i] = min(placed[i], limit)
            limit = placed[i] - _LABEL_GAP
    return [
        svg.text(name, 100, at + 4, dx=8, class_=f"end {name.replace(' ', '-').lower()}")
        for (_, name), at in zip(ends, placed, strict=True)
    ]


def _tooltip(points: Sequence[CloudPoint], i: int, x: Scale, split: Split) -> Markup:
    here = x(points[i].at)
    left = 0.0 if i == 0 else (x(points[i - 1].at) + here) / 2
    right = 100.0 if i == len(points) - 1 else (x(points[i + 1].at) + here) / 2
    return svg.rect(left, _TOP, right - left, _PLOT, "hover", svg.tag("title", _figures(points[i], split)))


def _figures(point: CloudPoint, split: Split) -> str:
    parts = [f"{point.name}: trained on {split} {numbers.decimal(point.trained)}"]
    named = (
        ("logged", point.logged),
        ("head control", point.head_control),
        ("YES-0", point.yes0),
        ("bound", point.bound),
    )
    parts += [f"{name} {numbers.decimal(value)}" for name, value in named if value is not None]
    return ", ".join(parts)


def _description(points: Sequence[CloudPoint], split: Split) -> str:
    first, last = points[0], points[-1]
    return f"{len(points)} audited. First, {_figures(first, split)}. Last, {_figures(last, split)}. The table has all."
