"""Audits in this process, for the benches: a Ray of our own, a store in a directory, no database and no HTTP."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from peelbound.service.controller.audit import Audit, parse_report
from peelbound.service.controller.cluster import start_ray
from peelbound.service.controller.pool import Pool
from peelbound.service.schemas.record import Progress
from peelbound.service.schemas.report import Report
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.storage.open import open_store


@dataclass(frozen=True)
class Result:
    """A report and what it took."""

    report: Report
    timings: dict[str, Any]


class LocalAudits:
    """Runs audits one after another on one pool."""

    def __init__(self, settings: Settings, store: ObjectStore, pool: Pool) -> None:
        self.settings, self.store, self.pool = settings, store, pool

    def run(self, request: AuditRequest) -> Result:
        """Carry out one audit."""

        def ignore(_: Progress) -> None:
            return

        outcome = Audit(request, "bench", self.settings, self.store, self.pool, ignore).run()
        return Result(parse_report(outcome.report), outcome.timings)


@contextmanager
def local_audits(state: Path, readable: Path, workers: int = 2) -> Iterator[LocalAudits]:
    """A pool with its store under `state` that may read below `readable`."""
    settings = Settings(state_dir=state.absolute(), allow=[str(readable.absolute())], workers=workers)
    store = open_store(settings)
    start_ray(settings)
    try:
        yield LocalAudits(settings, store, Pool(settings, store, lambda: None))
    finally:
        ray.shutdown()


def save(path: Path, rows: Any) -> None:
    """Keep a bench's figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
