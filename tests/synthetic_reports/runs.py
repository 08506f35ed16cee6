"""A training run and its audits."""

import math
from datetime import UTC, datetime
from typing import Any

from peelbound.service.schemas.record import AuditRecord, AuditState, RunPoint, RunSeries
from peelbound.service.schemas.report import CheckpointVerdict, CloudSummary
from peelbound.service.schemas.request import AuditRequest
from tests.synthetic_reports.whole import REQUEST, frozen_report, sound_report


def build_series(steps: int = 8, *, bounded: bool = True, frozen: bool = False, run: str = "baseline") -> RunSeries:
    """A run whose loss falls through the bands; the last audit is still running."""
    points = []
    for i in range(1, steps + 1):
        report = frozen_report() if frozen and i > steps // 2 else sound_report()
        trained = 3.1 + 3.4 * math.exp(-3.2 * i / steps)
        cloud = CloudSummary(
            trained_fit=trained,
            trained_check=trained + 0.06,
            head_control_fit=trained - 0.09,
            head_control_check=trained + 0.058,
            yes0_fit=3.75 + 1.2 * math.exp(-3.0 * i / steps) if bounded else None,
            yes0_check=3.85 + 1.2 * math.exp(-3.0 * i / steps) if bounded else None,
            bound_fit=3.22 + 1.0 * math.exp(-3.0 * i / steps) if bounded else None,
            bound_check=3.38 + 1.0 * math.exp(-3.0 * i / steps) if bounded else None,
        )
        status = CheckpointVerdict.IMPROVABLE if i < steps * 0.6 else CheckpointVerdict.HOLDS
        points.append(
            RunPoint(
                audit_id=f"01KACM2V7M3J0Q4S8R0V5N{i:04d}",
                step=100 * i,
                training_loss=trained + 0.03 * math.sin(5 * i),
                state=AuditState.SUCCEEDED,
                summary=report.summary.model_copy(update={"cloud": cloud, "status": status}),
            )
        )
    running = RunPoint(
        audit_id=f"01KACM2V7M3J0Q4S8R0V5N{steps + 1:04d}",
        step=100 * (steps + 1),
        training_loss=3.11,
        state=AuditState.RUNNING,
        summary=None,
    )
    return RunSeries(run=run, points=[*points, running])


def build_record(*, audit_id: str = "01KACM2V7M3J0Q4S8R0V5N0008", run: str = "baseline", **request: Any) -> AuditRecord:
    """The record of a finished audit."""
    body = AuditRequest.model_validate({**REQUEST, "run": run, "step": 800, "training_loss": 3.2011, **request})
    at = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)
    return AuditRecord(id=audit_id, state=AuditState.SUCCEEDED, attempt=1, request=body, created_at=at)
