"""What a log says while an audit runs."""

import io

from rich.console import Console

from peelbound.cli.progress import LINE_SECONDS, showing
from peelbound.service.schemas.record import Progress


def progress(phase: str, done: int) -> Progress:
    return Progress(phase=phase, problems_done=done, problems_planned=100, work_done=done, work_planned=100)


def test_a_log_gets_a_line_per_phase_and_per_minute_of_a_long_one() -> None:
    written = io.StringIO()
    now = 1000.0
    with showing(Console(file=written, width=200), clock=lambda: now) as show:
        for seconds, phase, done in (
            (0.0, "block_references", 1),
            (LINE_SECONDS / 2, "block_references", 2),
            (LINE_SECONDS / 2, "block_references", 3),
            (LINE_SECONDS / 2, "networks", 4),
            (LINE_SECONDS / 2, "networks", 5),
            (LINE_SECONDS / 2, "networks", 6),
        ):
            now += seconds
            show(progress(phase, done))
    said = [line.strip() for line in written.getvalue().splitlines()]
    assert said == [
        "1% block references, 1/100 problems",
        "3% block references, 3/100 problems",
        "4% networks, 4/100 problems",
        "6% networks, 6/100 problems",
    ]
