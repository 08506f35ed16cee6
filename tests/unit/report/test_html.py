import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from peelbound.service.report import numbers
from peelbound.service.report.html import render, render_run
from peelbound.service.schemas.record import RunSeries
from peelbound.service.schemas.report import CheckpointVerdict, Report
from tests.synthetic_reports.low_bit import low_bit_report, rounded_report
from tests.synthetic_reports.parts import control
from tests.synthetic_reports.runs import build_record, build_series
from tests.synthetic_reports.whole import (
    REQUEST,
    build_report,
    deep_report,
    estimate_report,
    frozen_report,
    sound_report,
)

SECTIONS = ["verdict", "next", "losses", "blocks", "matrix", "control", "settings", "reproduce", "caveats"]
HOSTILE = """"><script>alert(1)</script><img src=x onerror=alert(1)>'{{ 7*7 }}</style></title>"""


class Page(HTMLParser):
    """What a browser would see: tags, ids, visible text, and that every element is closed."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


REPORTS: list[tuple[str, Callable[..., Report]]] = [
    ("sound", sound_report),
    ("frozen", frozen_report),
    ("deep", deep_report),
    ("estimate", estimate_report),
    ("rounded", rounded_report),
    ("low-bit", low_bit_report),
]


@pytest.mark.parametrize(("name", "make"), REPORTS)
def test_the_sections_stand_in_order_with_ids_that_are_unique(name: str, make: Callable[..., Report]) -> None:
    page = Page(render(make()))
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    assert len(page.ids) == len(set(page.ids))


def test_the_run_is_drawn_where_its_series_is_given() -> None:
    page = Page(render(sound_report(), record=build_record(), series=build_series()))
    assert "run" in page.ids
    assert page.ids.index("control") < page.ids.index("run") < page.ids.index("settings")
    assert {"cloud-fit-title", "cloud-check-title"} <= set(page.ids)
    assert "step 800" in page.text


@pytest.mark.parametrize(("name", "make"), REPORTS)
def test_every_number_and_sentence_of_the_verdict_is_on_the_page(name: str, make: Callable[..., Report]) -> None:
    report = make()
    page = Page(render(report))
    assert report.verdict.headline in page.text
    for sentence in report.verdict.sentences:
        assert sentence.text in page.text
        for citation in sentence.cites:
            if isinstance(citation.value, float) and not citation.path.startswith(("/settings", "/request")):
                assert numbers.scalar(citation.value) in page.text
    for block in report.blocks:
        assert numbers.gain(block.gain) in page.text
        assert numbers.decimal(block.half_limit, 1) in page.text
        assert numbers.decimal(block.excess_limit) in page.text
        assert numbers.interval(block.skip_cost) in page.text
    for item in report.networks:
        assert numbers.decimal(item.fit_loss) in page.text
        assert numbers.gain(item.gain_over_control) in page.text
    for cell in report.matrix:
        assert numbers.decimal(cell.loss_increase.estimate, 3) in page.text
    for caveat in report.caveats:
        assert caveat in page.text


def test_redundant_cells_are_explained_where_there_are_some() -> None:
    report = sound_report()
    page = Page(render(report))
    words = " ".join(page.text.split())
    assert "Outlined: redundant , the cost of replacing two blocks or more lies below the tolerance of 0.01" in words
    rest = [cell.model_copy(update={"redundant": False}) for cell in report.matrix]
    assert "Outlined" not in Page(render(report.model_copy(update={"matrix": rest}))).text


def test_settings_hashes_and_versions_are_exact() -> None:
    report = sound_report()
    page = Page(render(report))
    assert report.checkpoint.sha256 in page.text
    for split in report.calibration.splits.values():
        assert split.sha256 in page.text
    for name, value in (*numbers.flatten(report.settings), *numbers.flatten(report.environment)):
        assert f"{name} {value}" in page.text


@pytest.mark.parametrize("status", CheckpointVerdict)
def test_every_verdict_has_its_badge(status: CheckpointVerdict) -> None:
    assert 'class="badge' in render(build_report(status=status))


def test_a_missed_control_is_said_before_the_verdict() -> None:
    html = render(sound_report(planted=control(seen=False, named=False)))
    assert html.index("The positive control was missed") < html.index('class="badge')
    assert "The positive control was missed" not in render(sound_report())


def test_nothing_missing_looks_like_a_number() -> None:
    text = Page(render(estimate_report())).text
    assert "NaN" in text
    assert not re.search(r"\b(None|nan|inf)\b", text)
    assert "none tested" in text
    assert "all sound" not in text
    assert "Not measured in this audit" in text
    assert "Not planted in this audit" in text


@pytest.mark.parametrize("blocks", [1, 2, 12, 13, 100])
def test_any_depth_can_be_shown(blocks: int) -> None:
    page = Page(render(build_report(blocks=blocks)))
    assert f"{blocks} block" in page.text


def test_full_precision_is_spoken_of_only_where_it_was_solved() -> None:
    """A quick audit of a low-bit model solves its blocks in their class alone."""
    report = low_bit_report()
    assert report.low_bit is not None
    quick = report.low_bit.model_copy(update={"blocks": [], "networks": [], "bound": None, "sentences": []})
    for low_bit, said in ((report.low_bit, True), (quick, False)):
        text = Page(render(report.model_copy(update={"low_bit": low_bit}))).text
        assert ("the same were solved in full precision" in text) is said
        assert ("What the bits cost was not measured" in text) is not said


def test_no_blocks_and_no_caveats_still_make_a_page() -> None:
    page = Page(render(sound_report().model_copy(update={"blocks": [], "caveats": [], "matrix": [], "networks": []})))
    assert "No blocks were measured" in page.text


def test_the_same_report_gives_the_same_bytes() -> None:
    record, series = build_record(labels={"team": "research"}), build_series()
    assert render(frozen_report(), record=record, series=series) == render(
        frozen_report(), record=record.model_copy(), series=RunSeries.model_validate(series.model_dump())
    )


def test_without_a_record_the_page_names_no_time_and_no_audit() -> None:
    html = render(sound_report())
    assert "2026-01-15" not in html
    assert "01KACM2V" not in html


def hostile_report() -> Report:
    report = frozen_report(
        headline=HOSTILE,
        request={
            **REQUEST,
            "checkpoint": f"s3://models/{HOSTILE}",
            "calibration": {"uri": HOSTILE, "provenance": HOSTILE},
        },
    )
    changes: dict[str, Any] = {
        "caveats": [HOSTILE],
        "settings": {HOSTILE: {HOSTILE: HOSTILE}},
        "environment": {HOSTILE: HOSTILE},
        "networks": [report.networks[0].model_copy(update={"name": HOSTILE}), *report.networks[1:]],
        "checkpoint": report.checkpoint.model_copy(update={"architecture": HOSTILE, "model_type": HOSTILE}),
        "calibration": report.calibration.model_copy(update={"provenance": HOSTILE}),
        "positive_control": control().model_copy(update={"detail": HOSTILE}),
        "blocks": [report.blocks[0].model_copy(update={"side": HOSTILE}), *report.blocks[1:]],
    }
    return report.model_copy(update=changes)


def test_hostile_text_stays_text() -> None:
    series = build_series()
    named = series.model_copy(update={"run": HOSTILE})
    record = build_record()
    record = record.model_copy(
        update={
            "request": record.request.model_copy(
                update={"labels": {HOSTILE: HOSTILE}, "run": HOSTILE, "checkpoint": HOSTILE}
            )
        }
    )
    for html in (render(hostile_report(), record=record, series=named), render_run(named)):
        page = Page(html)
        assert not {"script", "img", "iframe", "object", "form"} & set(page.tags)
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert (
            html.count("<style>")
            == html.count("</style>")
            == html.count("</title>") - html.count("<title ") - (html.count("<title>") - 1)
        )
        assert "alert(1)" in page.text
        assert "{{ 7*7 }}" in page.text


def test_the_page_needs_nothing_but_itself() -> None:
    html = render(frozen_report(), record=build_record(), series=build_series())
    page = Page(html)
    assert "script" not in page.tags
    assert [value for name, value in page.attributes if name == "src"] == []
    links = [value or "" for name, value in page.attributes if name == "href"]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert {link[1:] for link in links if link.startswith("#")} <= set(page.ids)
    assert not [name for name, _ in page.attributes if name == "style"]
    assert "url(" not in html


def test_a_run_has_a_page_of_its_own() -> None:
    page = Page(render_run(build_series(8, frozen=True)))
    assert {"cloud-fit-title", "cloud-check-title"} <= set(page.ids)
    assert "baseline" in page.text
    assert "3 inert, 5 lagging" in page.text
    assert "running" in page.text


def test_a_run_without_finished_or_any_audits_says_so() -> None:
    series = build_series(1)
    pending = series.model_copy(update={"points": series.points[1:]})
    assert "none finished yet" in Page(render_run(pending)).text
    assert "This run has no audits" in Page(render_run(RunSeries(run="empty", points=[]))).text
