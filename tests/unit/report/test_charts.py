import math
import re
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from peelbound.service.report.charts import svg
from peelbound.service.report.charts.blocks import PLOT_WIDTH, blocks_chart, panels
from peelbound.service.report.charts.cloud import Split, cloud_chart, cloud_points
from peelbound.service.report.charts.lettering import PAGE, apart, extent, shortened, width
from peelbound.service.report.charts.losses import (
    MOST_NETWORKS,
    Kind,
    check_competitors,
    fit_competitors,
    loss_panel,
    shared_scale,
)
from peelbound.service.report.charts.low_bit import damage_chart, price_chart, rounding_chart
from peelbound.service.report.charts.matrix import ROWS_PER_TABLE, heat_tables
from peelbound.service.report.charts.scale import Scale
from peelbound.service.report.wording import GLYPHS
from peelbound.service.schemas.record import RunSeries
from peelbound.service.schemas.report import BlockFinding, MatrixCell, Report
from tests.synthetic_reports.low_bit import low_bit_report, rounded_report
from tests.synthetic_reports.parts import around, matrix, network
from tests.synthetic_reports.runs import build_series
from tests.synthetic_reports.whole import build_report, deep_report, estimate_report, frozen_report, sound_report


def parsed(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart)


def marks(chart: str, class_: str) -> list[ElementTree.Element]:
    return [e for e in parsed(chart).iter() if e.get("class") == class_]


def texts(chart: str, class_: str) -> list[str]:
    return [e.text or "" for e in marks(chart, class_)]


def panel(report: Report, split: str) -> str:
    rows = fit_competitors(report) if split == "fit" else check_competitors(report)
    return loss_panel("panel", split, "3.26", rows, shared_scale(report))


# --- losses


def test_the_bound_is_marked_and_the_best_block_stands_on_check_only() -> None:
    report = frozen_report()
    assert [row.name for row in fit_competitors(report)] == ["Head control", "YES-1 {3} = bound", "YES-0", "direct"]
    assert [row.name for row in check_competitors(report)] == [
        "Head control",
        "YES-0",
        "YES-1 {3} = bound",
        "Block 5 re-solved",
    ]
    assert [row.kind for row in check_competitors(report)][-1] is Kind.BLOCK


def test_long_names_are_cut_but_the_bound_stays_marked() -> None:
    report = sound_report()
    assert report.bound is not None
    name = "YES-6 {1,12,23,34,45,56}"
    networks = [n.model_copy(update={"name": name}) if n.name == report.bound.network else n for n in report.networks]
    bound = report.bound.model_copy(update={"network": name})
    chart = panel(report.model_copy(update={"networks": networks, "bound": bound}), "fit")
    assert texts(chart, "label")[1] == "YES-6 {1,12,23,34,4… = bound"


@pytest.mark.parametrize("split", ["fit", "check"])
def test_a_name_and_its_numbers_share_a_line_on_a_phone(split: str) -> None:
    chart = panel(frozen_report(), split)
    for label, figures in zip(texts(chart, "label"), texts(chart, "figures"), strict=True):
        assert width(label, 13) + width(figures, 12.5) < PAGE
    assert all("…" not in label for label in texts(chart, "label"))


@pytest.mark.parametrize("zero", [0.0, 20.0, 31.0, 50.0, 69.0, 80.0, 100.0])
def test_the_trained_networks_loss_stands_within_the_plot(zero: float) -> None:
    chart = loss_panel("panel", "fit", "3.4183 [3.3401, 3.4965]", [], Scale(-zero, 100 - zero, 0, 100))
    (caption,) = marks(chart, "trained-label")
    at = float((caption.get("x") or "").rstrip("%")) / 100 * PAGE
    left, right = extent(caption.text or "", at, caption.get("text-anchor") or "", 12.5, bold=True)
    assert left >= 0
    assert right <= PAGE


def test_better_competitors_stand_right_of_the_trained_network() -> None:
    report = frozen_report()
    scale = shared_scale(report)
    for row in (*fit_competitors(report), *check_competitors(report)):
        assert (scale(row.gain) > scale(0)) == (row.gain > 0)


def test_intervals_are_drawn_where_they_were_measured() -> None:
    report = frozen_report()
    assert not [e for e in parsed(panel(report, "fit")).iter() if (e.get("class") or "").startswith("whisker")]
    whiskers = [e for e in parsed(panel(report, "check")).iter() if (e.get("class") or "").startswith("whisker")]
    assert len(whiskers) == len(check_competitors(report))


def test_only_the_most_telling_of_many_networks_are_drawn() -> None:
    report = sound_report()
    many = [network(f"YES-2 #{i}", [2, 4, 6], 6, 3.4 + i / 100, None, 3.1) for i in range(32)]
    shown = fit_competitors(report.model_copy(update={"networks": [*many, *report.networks]}))
    assert len(shown) == MOST_NETWORKS + 1
    assert [row.name for row in shown][1:3] == ["YES-1 {3} = bound", "YES-0"]


def test_a_quick_audit_has_only_control_and_block() -> None:
    assert [row.kind for row in check_competitors(estimate_report())] == [Kind.CONTROL, Kind.BLOCK]
    assert [row.kind for row in fit_competitors(estimate_report())] == [Kind.CONTROL]


# --- blocks


@pytest.mark.parametrize("blocks", [1, 2, 6, 17, 30, 60, 100])
def test_every_block_is_drawn_in_every_panel_and_inside_the_plot(blocks: int) -> None:
    chart = str(blocks_chart(build_report(blocks=blocks).blocks))
    assert len(marks(chart, "mark sound")) == 3 * blocks
    assert len(marks(chart, "mark attention")) == len(marks(chart, "mark mlp")) == blocks
    places = [float(x) for x in re.findall(r'(?:cx|x1|x2|x)="([-0-9.]+)%"', chart)]
    assert min(places) >= 0
    assert max(places) <= 100


def test_named_blocks_differ_in_shape_and_carry_their_name() -> None:
    chart = str(blocks_chart(frozen_report().blocks))
    assert len(marks(chart, "column inert")) == len(marks(chart, "column lagging")) == 1
    assert texts(chart, "named inert") == ["3 inert"]
    assert texts(chart, "named lagging") == ["5 lagging"]
    outlines = {svg.MARKS[shape] for shape in ("square", "triangle")}
    drawn = {e.get("d") for e in (*marks(chart, "mark inert"), *marks(chart, "mark lagging"))}
    assert drawn == outlines


def test_every_finding_has_a_mark_and_colours_of_its_own_in_both_schemes() -> None:
    style = (files("peelbound.service.report") / "templates" / "style.css").read_text(encoding="utf-8")
    chart, named = str(blocks_chart(deep_report().blocks)), [f for f in BlockFinding if f is not BlockFinding.SOUND]
    outlines = [{mark.get("d") for mark in marks(chart, f"mark {finding}")} for finding in named]
    assert [len(outline) for outline in outlines] == [1, 1, 1]
    assert len(set().union(*outlines)) == len(set(GLYPHS.values())) == len(named)
    for finding in named:
        for drawn in ("column", "mark", "whisker", "named", "finding"):
            assert f".{drawn}.{finding} {{" in style, (drawn, finding)
        for colour in (f"--{finding}:", f"--column-{finding}:"):
            assert style.count(colour) == 2, colour


def test_all_limits_by_which_a_block_lags_are_drawn() -> None:
    block = frozen_report().blocks[4]
    assert block.excess_gain is not None
    assert block.excess_limit is not None
    gain, _, influence, score = panels([block])
    assert [limit.value for limit in influence.limits] == [block.influence_limit]
    assert [limit.value for limit in score.limits] == [-6.0, 6.0, 12.7]
    median = block.gain.estimate - block.excess_gain.estimate
    assert [limit.value for limit in gain.limits] == [median + block.excess_limit]
    chart = str(blocks_chart(frozen_report().blocks))
    assert (len(marks(chart, "limit")), len(marks(chart, "limit alone"))) == (24, 6)


def test_neighbours_share_a_name_and_close_names_get_lanes_of_their_own() -> None:
    chart = str(blocks_chart(deep_report(100).blocks))
    assert texts(chart, "named inert") == ["13–14 inert"]
    [inert], [lagging] = marks(chart, "named inert"), marks(chart, "named lagging")
    assert inert.get("y") != lagging.get("y")


def test_undefined_numbers_leave_their_mark_out() -> None:
    sound, holed = build_report(quick=True), estimate_report()
    whole, drawn = str(blocks_chart(sound.blocks)), str(blocks_chart(holed.blocks))
    assert "nan" not in drawn
    assert len(marks(drawn, "mark sound")) == len(marks(whole, "mark sound")) - 1
    assert len(marks(drawn, "whisker mark sound")) == len(marks(whole, "whisker mark sound")) - 1


def test_a_panels_title_and_hint_share_a_line_on_a_phone() -> None:
    what_if, low_bit = rounded_report(), low_bit_report()
    assert what_if.what_if is not None
    assert low_bit.low_bit is not None
    assert low_bit.baseline is not None
    charts = [
        blocks_chart(frozen_report().blocks),
        rounding_chart(what_if.what_if),
        price_chart(low_bit.low_bit.blocks),
        damage_chart(low_bit.baseline, low_bit.blocks),
    ]
    for chart in charts:
        titles = [e.text or "" for e in parsed(str(chart)).iter() if e.get("class") == "panel-title"]
        hints = [e.text or "" for e in parsed(str(chart)).iter() if e.get("class") == "hint"]
        for title, hint in zip(titles, hints, strict=True):
            assert width(title, 13, bold=True) + 8 + width(hint) <= PLOT_WIDTH + 8, (title, hint)


# --- lettering


def test_a_text_is_shortened_to_its_room() -> None:
    assert shortened("direct", 100) == "direct"
    assert width(shortened("a" * 50, 100)) <= 100 < width(shortened("a" * 50, 100) + "a")
    assert shortened("abc", 0) == "…"


def test_labels_are_kept_in_their_order_of_importance() -> None:
    extents = [(0.0, 10.0), (8.0, 18.0), (25.0, 30.0)]
    assert apart(extents, [0, 1, 2]) == {0, 2}
    assert apart(extents, [1, 0, 2]) == {1, 2}


# --- matrix


def test_few_blocks_make_a_triangle_and_many_a_band() -> None:
    [triangle] = heat_tables(matrix(6, 6), 6)
    assert triangle.columns == ["h1", "h2", "h3", "h4", "h5", "h6"]
    assert [sum(bool(cell.value) for cell in cells) for _, cells in triangle.rows] == [6, 5, 4, 3, 2, 1]
    band = heat_tables(matrix(100, 3), 100)
    assert [table.columns for table in band] == [["1 block", "2 blocks", "3 blocks"]] * 5
    assert sum(len(table.rows) for table in band) == 100
    assert max(len(table.rows) for table in band) <= ROWS_PER_TABLE


def test_shades_grow_with_the_cost_and_a_gain_has_its_own() -> None:
    costs = [0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 1.0]
    cells = [
        MatrixCell(source=0, target=i + 1, residual=0.1, loss_increase=around(c, 0.01)) for i, c in enumerate(costs)
    ]
    [(_, shades)] = heat_tables(cells, 12)[0].rows
    levels = [int(cell.shade.removeprefix("heat-")) for cell in shades]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0, 8)
    below = MatrixCell(source=0, target=1, residual=0.1, loss_increase=around(-0.2, 0.01))
    undefined = MatrixCell(source=0, target=2, residual=0.1, loss_increase=around(math.nan, 0.01))
    [(_, odd)] = heat_tables([below, undefined], 6)[0].rows
    assert [cell.shade for cell in odd] == ["heat-below", "heat-none"]
    assert [cell.value for cell in odd] == ["−0.200", "NaN"]


def test_redundant_cells_are_marked() -> None:
    rows = heat_tables(matrix(6, 2), 6)[0].rows
    (marked,) = (shade for _, row in rows for shade in row if shade.shade.endswith(" redundant"))
    assert marked.title.startswith("h3 → h5, in place of blocks 4–5: ")
    assert marked.title.endswith(" nats, redundant")


def test_no_matrix_makes_no_table() -> None:
    assert heat_tables([], 6) == []


# --- cloud


def shift(series: RunSeries, **changes: object) -> RunSeries:
    return series.model_copy(update={"points": [p.model_copy(update=changes) for p in series.points]})


def test_bands_and_lines_follow_the_audited_steps() -> None:
    points = cloud_points(build_series(8), Split.FIT)
    chart = str(cloud_chart("c", points, Split.FIT))
    assert [p.at for p in points] == [100.0 * i for i in range(1, 9)]
    assert [len(marks(chart, f"band {b}")) for b in ("worse", "between", "best")] == [1, 1, 1]
    assert len(marks(chart, "mark trained")) == len(marks(chart, "mark logged")) == 8
    assert {e.text for e in parsed(chart).iter() if (e.get("class") or "").startswith("end ")} == {
        "logged",
        "trained",
        "head control",
        "YES-0",
        "bound",
    }


def test_the_check_variant_draws_check_losses() -> None:
    series = build_series(3)
    fit, check = cloud_points(series, Split.FIT), cloud_points(series, Split.CHECK)
    assert [c.trained - f.trained for f, c in zip(fit, check, strict=True)] == pytest.approx([0.06] * 3)


def test_the_bands_are_stacked_from_worse_to_better() -> None:
    chart = str(cloud_chart("c", cloud_points(build_series(8), Split.FIT), Split.FIT))
    heights = {}
    for band in ("worse", "between", "best"):
        [polygon] = marks(chart, f"band {band}")
        ys = [float(pair.split(",")[1]) for pair in (polygon.get("points") or "").split()]
        heights[band] = (min(ys), max(ys))
    assert heights["worse"][0] < heights["between"][0] < heights["best"][0]
    assert heights["worse"][1] < heights["between"][1] < heights["best"][1]


def test_a_picked_network_worse_than_yes0_does_not_turn_the_bands_over() -> None:
    points = cloud_points(build_series(3), Split.CHECK)
    turned = [replace(p, bound=p.yes0, yes0=p.bound) for p in points]
    chart = str(cloud_chart("c", turned, Split.CHECK))
    [between] = marks(chart, "band between")
    heights = {pair.split(",")[1] for pair in (between.get("points") or "").split()}
    [edge] = marks(chart, "edge bound")
    assert heights == {pair.split(",")[1] for pair in (edge.get("points") or "").split()}


def test_a_run_without_bounds_has_lines_and_no_bands() -> None:
    chart = str(cloud_chart("c", cloud_points(build_series(3, bounded=False), Split.FIT), Split.FIT))
    assert "band" not in chart
    assert len(marks(chart, "mark trained")) == 3


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_any_number_of_steps_can_be_drawn(steps: int) -> None:
    chart = str(cloud_chart("c", cloud_points(build_series(steps), Split.FIT), Split.FIT))
    assert len(marks(chart, "mark trained")) == steps
    assert "nan" not in chart


def test_nothing_audited_draws_nothing() -> None:
    assert cloud_chart("c", [], Split.FIT) == ""


def test_the_latest_audit_of_a_step_counts_and_the_current_one_is_ringed() -> None:
    series = shift(build_series(3), step=500)
    [point] = cloud_points(series, Split.FIT, current=series.points[2].audit_id)
    assert point.current
    assert len(marks(str(cloud_chart("c", [point], Split.FIT)), "ring")) == 1


def test_audits_without_steps_stand_in_order_of_submission() -> None:
    points = cloud_points(shift(build_series(3), step=None), Split.FIT)
    assert [p.name for p in points] == ["audit 1", "audit 2", "audit 3"]
    assert [p.trained for p in points] == sorted((p.trained for p in points), reverse=True)


def test_names_at_the_lines_ends_do_not_touch() -> None:
    chart = str(cloud_chart("c", cloud_points(build_series(60), Split.FIT), Split.FIT))
    heights = sorted(float(e.get("y") or 0) for e in parsed(chart).iter() if (e.get("class") or "").startswith("end "))
    assert min(b - a for a, b in pairwise(heights)) >= 14


# --- svg


def test_text_and_attributes_are_escaped() -> None:
    element = svg.tag("text", "<script>", class_='"x"', missing=None)
    assert element == '<text class="&#34;x&#34;">&lt;script&gt;</text>'


@pytest.mark.parametrize(
    ("value", "written"), [(1.0, "1"), (-0.001, "0"), (33.333333, "33.33"), (10.0, "10"), (7, "7")]
)
def test_coordinates_are_short(value: float, written: str) -> None:
    assert svg.number(value) == written
