"""Plays the controller's part through the real leases and the real store, so that tests decide what happens when."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from peelbound.service.database.engine import make_engine
from peelbound.service.database.leases import Claim, Leases
from peelbound.service.schemas.record import Progress
from peelbound.service.schemas.report import Report
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.storage.open import open_store
from tests.synthetic_reports.whole import sound_report


class ActingController:
    """Claims audits and ends them with whatever the test hands in."""

    def __init__(self, engine: Engine, store: ObjectStore) -> None:
        self.leases = Leases(engine, lease_seconds=60, max_attempts=3)
        self.store = store

    def claim(self) -> Claim:
        """Take the oldest audit; there must be one."""
        claim = self.leases.claim("test")
        assert claim is not None
        return claim

    def advance(self, claim: Claim, done: int, planned: int = 4) -> None:
        """Report progress."""
        progress = Progress(
            phase="block_references",
            problems_done=done,
            problems_planned=planned,
            work_done=done,
            work_planned=planned,
        )
        assert self.leases.progress(claim, progress)

    def publish(self, claim: Claim, report: Report | None = None, **more: bytes) -> bytes:
        """Store a report, further files and the manifest, and publish them; answers the report's bytes."""
        report = report or sound_report()
        body = report.model_dump_json().encode()
        folder = f"tenants/{claim.tenant}/audits/{claim.audit_id}/{claim.attempt}"
        artifacts = []
        for name, data in {"report.json": body, **more}.items():
            self.store.put(f"{folder}/{name}", data)
            media_type = "application/json" if name.endswith(".json") else "application/octet-stream"
            digest = hashlib.sha256(data).hexdigest()
            entry = f'"name":"{name}","key":"{folder}/{name}","bytes":{len(data)},"sha256":"{digest}"'
            artifacts.append(f'{{{entry},"media_type":"{media_type}"}}')
        self.store.put(f"{folder}/manifest.json", f'{{"artifacts":[{",".join(artifacts)}]}}'.encode())
        assert self.leases.succeed(claim, f"{folder}/manifest.json", report.summary)
        return body


@contextmanager
def acting_controller(settings: Settings) -> Iterator[ActingController]:
    """A controller on the service that these settings describe."""
    engine = make_engine(settings.resolved_database_url)
    try:
        yield ActingController(engine, open_store(settings))
    finally:
        engine.dispose()
