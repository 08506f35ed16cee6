"""What the terminal shows of a report."""

import io

import pytest
from rich.console import Console

from peelbound.cli.output import print_verdict, stdout_console
from peelbound.service.schemas.report import Report
from tests.synthetic_reports.low_bit import low_bit_report, rounded_report
from tests.synthetic_reports.whole import sound_report


def printed(report: Report) -> list[str]:
    """The lines on a wide terminal, spaces drawn together."""
    console = Console(file=io.StringIO(), width=200, color_system=None)
    print_verdict(report, console)
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_what_rounding_would_cost_is_told_and_tabled() -> None:
    report = rounded_report()
    assert report.what_if is not None
    lines = printed(report)
    assert "if rounded to int4-g32" in lines
    assert report.what_if.sentences[0].text in lines
    assert "block 1 +0.1520 +0.1900 [+0.1881, +0.1919] +0.0760 [+0.0741, +0.0779]" in lines
    assert any(line.startswith("all but 1, 6 +0.0284 [") for line in lines)
    assert any(line.startswith("all +0.2715 [") for line in lines)


def test_a_low_bit_model_is_told_the_price_of_its_bits_and_what_quantisation_did() -> None:
    report = low_bit_report()
    assert report.low_bit is not None
    assert report.baseline is not None
    lines = printed(report)
    assert lines.index("low-bit weights") < lines.index("beside the baseline")
    assert report.low_bit.sentences[0].text in lines
    assert report.baseline.sentences[0].text in lines
    assert any(line.startswith("1 +0.0410 [+0.0383, +0.0437]") for line in lines)


def test_of_neither_nothing_is_said() -> None:
    lines = printed(sound_report())
    assert not any("bits" in line or "rounded" in line or "baseline" in line for line in lines)


def test_in_a_log_each_block_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    report = sound_report()
    print_verdict(report, stdout_console())
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.split()[1:2] == ["sound"]]
    assert len(rows) == len(report.blocks)
    assert all("[" in row and "]" in row for row in rows)
