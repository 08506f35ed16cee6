"""What bits would cost a model trained here, block by block: the picture in the README, from the product's own reports.

`python -m bench.low_bit` trains the six-block model of the demo in full precision, audits it with `what_if` for each
weight class, keeps what the reports say (docs/low-bit.json) and draws it (docs/low-bit.svg). `--draw` only draws.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bench.local import local_audits, save
from bench.stdlib_corpus import prepare_corpus
from bench.stdlib_models import Recipe, train
from peelbound.service.report.charts.scale import Scale, tick_label
from peelbound.service.report.charts.svg import MARKS, tag
from peelbound.service.report.numbers import decimal
from peelbound.service.schemas.report import WhatIfReport
from peelbound.service.schemas.request import AuditRequest, Calibration, Preset, Provenance

CLASSES = ("int4-g32", "int2-g32", "ternary")
FIGURES, PICTURE = Path("docs/low-bit.json"), Path("docs/low-bit.svg")

_PLOT, _HEIGHT, _LEFT, _GAP, _TOP, _BOTTOM, _RIGHT = 232, 170, 54, 26, 88, 62, 20
_STYLE = """
svg { --paper: #fdfdfb; --ink: #1d2126; --quiet: #5b626b; --grid: #e2e1da; --own: #0b5a94; --told: #8f4a08; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #15181c; --ink: #e4e6e8; --quiet: #9aa2ab; --grid: #363c44; --own: #6cb6f0; --told: #eba863; } }
text { font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--ink); }
.title { font-size: 15px; font-weight: 600; } .heading { font-weight: 600; } .quiet { fill: var(--quiet); }
.paper { fill: var(--paper); } .grid { stroke: var(--grid); } .zero { stroke: var(--quiet); }
.own { fill: var(--own); stroke: var(--own); } .told { fill: none; stroke: var(--told); stroke-width: 0.4; }
.whisker { stroke: var(--own); stroke-width: 1.75; }
"""


def measure(directory: Path, classes: Sequence[str] = CLASSES) -> dict[str, Any]:
    """Train the model and ask of each class what it would cost.

    Returns:
        The report's `what_if` by class.
    """
    corpus, recipe = prepare_corpus(directory / "corpus"), Recipe()
    for step in train(corpus, recipe, directory / "model"):
        checkpoint = step.checkpoint
    assert checkpoint is not None
    found = {}
    with local_audits(directory / "state", directory) as audits:
        for name in classes:
            request = AuditRequest(
                checkpoint=str(checkpoint.absolute()),
                calibration=Calibration(uri=str(corpus.held_out_path.absolute()), provenance=Provenance.UNSEEN),
                preset=Preset.QUICK,
                what_if=name,
            )
            what_if = audits.run(request).report.what_if
            assert what_if is not None
            found[name] = what_if.model_dump(mode="json")
    return found


def draw(figures: Mapping[str, Any]) -> str:
    """A panel for each class: measured cost of each block alone with its interval, and what was foretold of it."""
    reports = [WhatIfReport.model_validate(section) for section in figures.values()]
    values = [
        value
        for report in reports
        for block in report.blocks
        for value in (block.cost.low, block.cost.high, block.predicted_cost)
    ]
    y = Scale.fitting(values, _TOP + _HEIGHT, _TOP, root=True)
    width = _LEFT + len(reports) * _PLOT + (len(reports) - 1) * _GAP + _RIGHT
    height = _TOP + _HEIGHT + _BOTTOM
    content = [
        tag("title", "What rounding each block would cost"),
        tag("desc", " ".join(_told(report) for report in reports)),
        tag("style", Markup(_STYLE)),  # noqa: S704 - our own style sheet
        tag("rect", width=width, height=height, rx=6, class_="paper"),
        tag("text", "What rounding one block would cost, in nats per token", x=_LEFT, y=26, class_="title"),
        *_legend(),
    ]
    for place, report in enumerate(reports):
        content += _panel(report, _LEFT + place * (_PLOT + _GAP), y, labelled=place == 0)
    namespace = "http://www.w3.org/2000/svg"
    return str(tag("svg", *content, xmlns=namespace, viewBox=f"0 0 {width} {height}", width=width, role="img"))


def _legend() -> list[Markup]:
    return [
        tag("circle", cx=_LEFT + 5, cy=42, r=4, class_="own"),
        tag("text", "measured on documents that nothing was fitted to", x=_LEFT + 15, y=46, class_="quiet"),
        _diamond(_LEFT + 348, 42),
        tag("text", "foretold from one pass back", x=_LEFT + 358, y=46, class_="quiet"),
    ]


def _panel(report: WhatIfReport, left: float, y: Scale, *, labelled: bool) -> list[Markup]:
    bottom, blocks = _TOP + _HEIGHT, len(report.blocks)
    drawn = [tag("text", report.scheme, x=left, y=_TOP - 10, class_="heading")]
    for tick in y.ticks(5):
        drawn.append(tag("line", x1=left, x2=left + _PLOT, y1=y(tick), y2=y(tick), class_="grid" if tick else "zero"))
        if labelled:
            drawn.append(tag("text", tick_label(tick), x=left - 6, y=y(tick) + 4, text_anchor="end", class_="quiet"))
    for block in report.blocks:
        middle = left + (block.index - 0.5) / blocks * _PLOT
        own, told = middle - 5, middle + 5
        drawn += [
            tag("line", x1=own, x2=own, y1=y(block.cost.low), y2=y(block.cost.high), class_="whisker"),
            tag("circle", cx=own, cy=y(block.cost.estimate), r=4, class_="own"),
            _diamond(told, y(block.predicted_cost)),
            tag("text", str(block.index), x=middle, y=bottom + 16, text_anchor="middle", class_="quiet"),
        ]
    return [*drawn, tag("text", _together(report), x=left, y=bottom + 40)]


def _diamond(x: float, y: float) -> Markup:
    return tag("path", d=MARKS["diamond"], transform=f"translate({x:.1f},{y:.1f}) scale(4)", class_="told")


def _together(report: WhatIfReport) -> str:
    return f"all blocks together: {decimal(report.mixes[0].cost.estimate, sign=True)}"


def _told(report: WhatIfReport) -> str:
    costs = ", ".join(decimal(block.cost.estimate) for block in report.blocks)
    return f"{report.scheme}: blocks 1 to {len(report.blocks)} alone cost {costs} nats; {_together(report)}."


def main() -> None:
    """Measure unless told only to draw, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("bench/out/low-bit"))
    parser.add_argument("--draw", action="store_true", help=f"draw what {FIGURES} holds")
    given = parser.parse_args()
    if not given.draw:
        save(FIGURES, measure(given.directory))
    PICTURE.write_text(draw(json.loads(FIGURES.read_text(encoding="utf-8"))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
