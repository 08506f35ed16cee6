"""Progress: what is done of what was planned, and how long the rest will take at the pace seen so far."""

import time
from collections import deque
from collections.abc import Callable

from peelbound.service.controller import metrics
from peelbound.service.schemas.record import Progress

WINDOW_SECONDS = 60.0
SAMPLE_SECONDS = 0.5
REPORT_SECONDS = 2.0
"""Each report is a row in the database and an event that followers get."""


class Meter:
    """Counts finished peel problems and FLOPs, and reports at most every two seconds, phases at once."""

    def __init__(self, report: Callable[[Progress], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting.

        Args:
            report: gets each progress.
            clock: seconds.
        """
        self._report, self._clock = report, clock
        self._phase = "starting"
        self._problems = self._planned = self._cached = 0
        self._work = self._work_planned = 0.0
        self._saved = 0.0
        self._recent: deque[tuple[float, int, float]] = deque()
        self._last = float("-inf")

    def plan(self, problems: int, work: float) -> None:
        """State what is to come, in peel problems and FLOPs."""
        self._planned, self._work_planned = problems, work
        self._tell()

    def phase(self, name: str) -> None:
        """Enter a phase."""
        self._phase = name
        self._tell()

    def worked(self, flops: float) -> None:
        """FLOPs of a pass were done."""
        self._work += flops
        self._sample()

    def solved(self, flops: float) -> None:
        """A peel problem was solved."""
        metrics.PROBLEMS.labels("solved").inc()
        self._problems += 1
        self._work += flops
        self._sample()

    def found(self, problems: int, flops: float) -> None:
        """Peel problems were found in object storage."""
        metrics.PROBLEMS.labels("found").inc(problems)
        self._problems += problems
        self._cached += problems
        self._work += flops
        self._saved += flops
        self._maybe()

    def unneeded(self, problems: int, flops: float) -> None:
        """Peel problems of the plan turned out to be others of it."""
        self._planned -= problems
        self._work_planned -= flops
        self._maybe()

    def progress(self) -> Progress:
        """How far it is now, at the pace of the last minute, or since the last but one report where that is longer."""
        now = self._clock()
        while len(self._recent) > 2 and now - self._recent[1][0] >= WINDOW_SECONDS:
            self._recent.popleft()
        rate = eta = None
        if len(self._recent) > 1 and now > self._recent[0][0]:
            since, problems, work = self._recent[0]
            rate = (self._problems - self._cached - problems) / (now - since) or None
            pace = (self._work - self._saved - work) / (now - since)
            eta = max(0.0, self._work_planned - self._work) / pace if pace > 0 else None
        return Progress(
            phase=self._phase,
            problems_done=self._problems,
            problems_planned=max(self._planned, self._problems),
            problems_cached=self._cached,
            work_done=self._work,
            work_planned=max(self._work_planned, self._work),
            problems_per_second=rate,
            eta_seconds=eta,
        )

    def _sample(self) -> None:
        now = self._clock()
        if not self._recent or now - self._recent[-1][0] >= SAMPLE_SECONDS:
            self._recent.append((now, self._problems - self._cached, self._work - self._saved))
        self._maybe()

    def _maybe(self) -> None:
        if self._clock() - self._last >= REPORT_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self._last = self._clock()
        self._report(self.progress())


class Furthest:
    """Hands reports on that never fall behind an earlier one, though the audit begins anew within its attempt.

    After the loss of a worker it walks once more over what is measured already.
    """

    def __init__(self, report: Callable[[Progress], None]) -> None:
        """Nothing was reported yet; `report` gets each progress."""
        self._report = report
        self._furthest: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Report where the audit is, with the counts of when it was furthest."""
        known = self._furthest
        if known is None or (progress.work_done >= known.work_done and progress.problems_done >= known.problems_done):
            self._furthest = known = progress
        now = progress.model_dump(include={"phase", "problems_per_second", "eta_seconds"})
        self._report(known.model_copy(update=now))
