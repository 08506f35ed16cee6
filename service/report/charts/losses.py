"""The trained network against its competitors: a dot for each gain, with its interval where one was measured."""

import math
from dataclasses import dataclass
from enum import StrEnum

from markupsafe import Markup

from peelbound.service.report import numbers
from peelbound.service.report.charts import lettering, svg
from peelbound.service.report.charts.scale import Scale, tick_label
from peelbound.service.schemas.report import Interval, NetworkReport, Report

MOST_NETWORKS = 6
"""Reference networks drawn; the table holds all of them."""

_TOP, _ROW, _BELOW = 30, 40, 40
_BOUND_MARK = " = bound"
_LABEL, _FIGURES, _CAPTION = 13.0, 12.5, 12.5
"""Font sizes of the style sheet, in pixels."""
_GAP = 10


class Kind(StrEnum):
    """What a competitor is; decides the mark's shape and colour."""

    CONTROL = "control"
    BOUND = "bound"
    NETWORK = "network"
    BLOCK = "block"


_SHAPES = {Kind.CONTROL: "square", Kind.BOUND: "diamond", Kind.NETWORK: "circle", Kind.BLOCK: "triangle"}


@dataclass(frozen=True)
class Competitor:
    """One row of the chart. Gains are CE(trained) − CE(this) in nats."""

    name: str
    kind: Kind
    loss: float
    gain: float
    interval: Interval | None = None

    @property
    def figures(self) -> str:
        """The row's numbers in words."""
        if self.interval is not None:
            return numbers.gain(self.interval)
        return f"{numbers.signed(self.gain)} · {numbers.decimal(self.loss)}"


def fit_competitors(report: Report) -> list[Competitor]:
    """Head control and reference networks on fit, the YES bound first, then by loss."""
    trained, control, bound = report.trained.fit, report.head_control, report.bound
    rows = [Competitor("Head control", Kind.CONTROL, control.fit_loss, trained - control.fit_loss)]
    for network in _shown_networks(report):
        is_bound = bound is not None and network.name == bound.network
        rows.append(_network_row(network, is_bound, network.fit_loss, trained - network.fit_loss, None))
    return rows


def check_competitors(report: Report) -> list[Competitor]:
    """Head control, the measured reference networks and the best block reference, on check."""
    trained, control, bound = report.trained.check.estimate, report.head_control, report.bound
    rows = [Competitor("Head control", Kind.CONTROL, control.check_loss, control.gain.estimate, control.gain)]
    for network in report.networks:
        if network.gain is not None:
            is_bound = bound is not None and network.name == bound.check_network
            loss = trained - network.gain.estimate if network.check_loss is None else network.check_loss
            rows.append(_network_row(network, is_bound, loss, network.gain.estimate, network.gain))
    best, gain = report.summary.best_block, report.summary.best_block_gain
    if best is not None and gain is not None:
        rows.append(Competitor(f"Block {best} re-solved", Kind.BLOCK, trained - gain.estimate, gain.estimate, gain))
    return rows


def _network_row(
    network: NetworkReport, is_bound: bool, loss: float, gain: float, interval: Interval | None
) -> Competitor:
    name = f"{network.name}{_BOUND_MARK}" if is_bound else network.name
    return Competitor(name, Kind.BOUND if is_bound else Kind.NETWORK, loss, gain, interval)


def _shown_networks(report: Report) -> list[NetworkReport]:
    """The bound, YES-0 (the first threshold of the YES cloud), then the lowest losses, at most `MOST_NETWORKS`."""
    bound = report.bound.network if report.bound else None

    def rank(network: NetworkReport) -> tuple[bool, bool, float]:
        return (network.name != bound, len(network.anchors) != 1, network.fit_loss)

    return sorted(report.networks, key=rank)[:MOST_NETWORKS]


def shared_scale(report: Report) -> Scale:
    """One scale for both panels, so that a gain that exists only on fit is seen at a glance."""
    values: list[float] = []
    for row in (*fit_competitors(report), *check_competitors(report)):
        values.append(row.gain)
        if row.interval is not None:
            values += [row.interval.low, row.interval.high]
    return Scale.fitting(values, 0, 100, root=True)


def loss_panel(name: str, title: str, trained: str, rows: list[Competitor], scale: Scale) -> Markup:
    """One split's competitors: the trained network is the vertical line, right of it is better.

    Args:
        name: unique within the page; ids are made of it.
        title: the picture's name, e.g. ``Gains on fit``.
        trained: the trained network's own loss as text, e.g. ``3.4183 [3.3401, 3.4965]``.
        rows: competitors from top to bottom.
        scale: gains in nats to per cent of the width.
    """
    height = _TOP + _ROW * len(rows) + _BELOW
    bottom = _TOP + _ROW * len(rows) + 6
    content = [_caption(scale(0.0), trained)]
    for i, row in enumerate(rows):
        content += _row(row, _TOP + _ROW * i, scale)
    content += _axis(scale, bottom)
    described = "; ".join(f"{row.name}: gain {row.figures}" for row in rows)
    description = f"Trained network {trained} nats per token. Gains over it, positive is better: {described}."
    return svg.picture(name, title, description, height, *content)


def _caption(zero: float, trained: str) -> Markup:
    """Over the line of the trained network, as near as it can be without leaving the plot on a phone."""
    text = f"trained {trained}"
    for at, anchor in ((zero, "middle"), (zero, "start"), (zero, "end")):
        left, right = lettering.extent(text, at / 100 * lettering.PAGE, anchor, _CAPTION, bold=True)
        if left >= 0 and right <= lettering.PAGE:
            break
    else:
        at, anchor = (0.0, "start") if zero < 50 else (100.0, "end")
    return svg.text(text, at, 14, anchor=anchor, class_="trained-label")


def _row(row: Competitor, top: float, scale: Scale) -> list[Markup]:
    middle, shape = top + 28.0, _SHAPES[row.kind]
    zero = scale(0.0)
    drawn = [
        svg.text(_label(row), 0, top + 14, class_="label"),
        svg.text(row.figures, 100, top + 14, anchor="end", class_="figures"),
        svg.rect(zero, middle - 8, 100 - zero, 16, "better"),
        svg.line(0, middle, 100, middle, "guide"),
        svg.line(zero, middle - 8, zero, middle + 8, "trained-line"),
    ]
    limits = row.interval
    if limits is not None and math.isfinite(limits.low) and math.isfinite(limits.high):
        drawn.append(svg.line(scale(limits.low), middle, scale(limits.high), middle, f"whisker {row.kind}"))
    if math.isfinite(row.gain):
        tip = f"{row.name}: {row.figures}"
        drawn.append(svg.mark(shape, scale(row.gain), middle, 4.5, f"mark {row.kind}", tip))
    return drawn


def _axis(scale: Scale, bottom: float) -> list[Markup]:
    ticks = [(tick_label(tick), scale(tick)) for tick in scale.ticks(5)]
    anchors = ["start" if x < 7 else "end" if x > 93 else "middle" for _, x in ticks]
    extents = [
        lettering.extent(label, x / 100 * lettering.PAGE, anchor)
        for (label, x), anchor in zip(ticks, anchors, strict=True)
    ]
    zero_first = sorted(range(len(ticks)), key=lambda i: ticks[i][0] != "0")
    labelled = lettering.apart(extents, zero_first)
    drawn = [svg.line(0, bottom, 100, bottom, "axis")]
    for i, (label, x) in enumerate(ticks):
        drawn.append(svg.line(x, bottom, x, bottom + 4, "axis"))
        if i in labelled:
            drawn.append(svg.text(label, x, bottom + 17, anchor=anchors[i], class_="tick"))
    return [*drawn, svg.text("better →", 100, bottom + 32, anchor="end", class_="hint")]


def _label(row: Competitor) -> str:
    """The row's name, cut so that it leaves room for its numbers on a phone."""
    mark = _BOUND_MARK if row.kind is Kind.BOUND else ""
    room = lettering.PAGE - lettering.width(row.figures, _FIGURES) - lettering.width(mark, _LABEL) - _GAP
    return lettering.shortened(row.name.removesuffix(mark), room, _LABEL) + mark
