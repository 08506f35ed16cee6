"""The pages: one for an audit's report, one for a run."""

import base64
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from peelbound.service.report import numbers
from peelbound.service.report.advice import advice
from peelbound.service.report.charts.blocks import blocks_chart
from peelbound.service.report.charts.cloud import Split, cloud_chart, cloud_points
from peelbound.service.report.charts.losses import check_competitors, fit_competitors, loss_panel, shared_scale
from peelbound.service.report.charts.low_bit import damage_chart, price_chart, rounding_chart
from peelbound.service.report.charts.matrix import heat_tables
from peelbound.service.report.citations import references
from peelbound.service.report.reproduce import audit_command, is_abridged, request_json
from peelbound.service.report.wording import GLYPHS, PROVENANCES, STATUSES
from peelbound.service.schemas.record import AuditRecord, RunSeries
from peelbound.service.schemas.report import BlockFinding, Report

_STYLE = (files("peelbound.service.report") / "templates" / "style.css").read_text(encoding="utf-8")

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; img-src data:; base-uri 'none'; form-action 'none'"
)
"""What a page may do: apply its own style sheet, nothing else. Each page carries it; the API may send it as well."""


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("peelbound.service.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        style=Markup(_STYLE),  # noqa: S704 - our own file
        policy=CONTENT_SECURITY_POLICY,
        statuses=STATUSES,
        provenances=PROVENANCES,
        glyphs=GLYPHS,
        BlockFinding=BlockFinding,
    )
    environment.filters.update(
        nats=numbers.decimal,
        signed=numbers.signed,
        gain=lambda value: _unbroken(numbers.gain(value)),
        interval=lambda value: _unbroken(numbers.interval(value)),
        limits=numbers.limits,
        score=numbers.score,
        count=numbers.count,
        short=numbers.short,
        size=numbers.size,
        flatten=numbers.flatten,
        ranges=numbers.ranges,
        verbatim=numbers.verbatim,
    )
    return environment


_ENVIRONMENT = _environment()


def render(report: Report, *, record: AuditRecord | None = None, series: RunSeries | None = None) -> str:
    """A report as one HTML document.

    The same arguments give the same bytes. Without `record` the page names no audit, run or time; with `series` it
    also draws the run's YES cloud, with this audit marked.
    """
    scale = shared_scale(report)
    trained_check = numbers.interval(report.trained.check)
    template = _ENVIRONMENT.get_template("report.html")
    return template.render(
        title=_title(report, record),
        report=report,
        record=record,
        status=STATUSES[report.verdict.status],
        advice=advice(report),
        cites=lambda sentence: references(report, sentence.cites),
        fit_panel=loss_panel(
            "fit-losses", "Gains on fit", numbers.decimal(report.trained.fit), fit_competitors(report), scale
        ),
        check_panel=loss_panel("check-losses", "Gains on check", trained_check, check_competitors(report), scale),
        blocks_chart=blocks_chart(report.blocks) if report.blocks else None,
        price_chart=price_chart(report.low_bit.blocks) if report.low_bit and report.low_bit.blocks else None,
        damage_chart=damage_chart(report.baseline, report.blocks) if report.baseline else None,
        rounding_chart=rounding_chart(report.what_if) if report.what_if else None,
        heat=heat_tables(report.matrix, report.checkpoint.blocks),
        clouds=_clouds(series, record.id if record else None),
        series=series,
        command=audit_command(report.request),
        request_json=request_json(report.request),
        request_abridged=is_abridged(report.request),
    )


def render_run(series: RunSeries) -> str:
    """A run as one HTML document: its YES cloud on fit and on check, and a table of its audits."""
    template = _ENVIRONMENT.get_template("run.html")
    return template.render(title=f"Run {series.run}", series=series, clouds=_clouds(series, None))


def _unbroken(text: str) -> Markup:
    """An estimate with its interval, whose brackets stay on one line."""
    estimate, bracket, limits = text.partition(" [")
    return Markup('{} <span class="range">[{}</span>').format(estimate, limits) if bracket else Markup.escape(text)


def _clouds(series: RunSeries | None, current: str | None) -> list[dict[str, Any]]:
    if series is None:
        return []
    clouds = []
    for split in Split:
        points = cloud_points(series, split, current)
        if points:
            bounded = any(p.yes0 is not None for p in points)
            clouds.append({"split": split, "chart": cloud_chart(f"cloud-{split}", points, split), "bounded": bounded})
    return clouds


def _title(report: Report, record: AuditRecord | None) -> str:
    if record is not None and record.request.run is not None:
        step = "" if record.request.step is None else f" · step {record.request.step:,}"
        return f"{record.request.run}{step}"
    checkpoint = str(report.request.get("checkpoint") or "").rstrip("/")
    return checkpoint.rsplit("/", 1)[-1] or f"checkpoint {report.checkpoint.sha256[:12]}"
