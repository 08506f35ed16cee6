"""Progress on standard error: a bar for people; for logs a line per phase, and per minute of a long one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from peelbound.service.schemas.record import Progress

LINE_SECONDS = 60.0
"""A log gets a line at least so often, where progress comes."""


@contextmanager
def showing(console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[Progress], None]]:
    """A function that shows how far an audit is; `clock` counts seconds."""
    if not console.is_terminal:
        yield _PhaseLines(console, clock)
        return
    columns = (
        TextColumn("{task.fields[phase]}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("audit", total=1.0, phase="waiting for a controller", detail="")

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.fraction, phase=_phase(progress), detail=_detail(progress))

        yield show


class _PhaseLines:
    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console, self._clock = console, clock
        self._phase, self._said_at = "", 0.0

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        if progress.phase != self._phase or now - self._said_at >= LINE_SECONDS:
            self._phase, self._said_at = progress.phase, now
            line = f"{100 * progress.fraction:3.0f}% {_phase(progress)}, {_detail(progress)}"
            self._console.print(line, markup=False, highlight=False)


def _phase(progress: Progress) -> str:
    return progress.phase.replace("_", " ")


def _detail(progress: Progress) -> str:
    parts = [f"{progress.problems_done}/{progress.problems_planned} problems"]
    if progress.problems_per_second:
        parts.append(f"{progress.problems_per_second:.2g}/s")
    if progress.eta_seconds is not None:
        minutes, seconds = divmod(round(progress.eta_seconds), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return ", ".join(parts)
