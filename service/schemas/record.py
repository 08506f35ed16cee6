"""An audit as the service keeps it: state, progress, events."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from peelbound.service.schemas.base import UtcTime, WireModel
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.report import Summary
from peelbound.service.schemas.request import AuditRequest


class AuditState(StrEnum):
    """queued → running → succeeded | failed | cancelled, with cancelling between."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the audit will never change again."""
        return self in (AuditState.SUCCEEDED, AuditState.FAILED, AuditState.CANCELLED)

    @property
    def at_work(self) -> bool:
        """Whether a controller holds the audit."""
        return self in (AuditState.RUNNING, AuditState.CANCELLING)


class Progress(WireModel):
    """How far a running audit is; counts only what is in object storage or measured."""

    phase: str
    """One of: starting, reading, trained_states, block_references, selecting, checking, reference_networks,
    peeling_matrix, positive_control, reporting, done."""
    problems_done: int = Field(ge=0)
    """Peel problems whose solution is in object storage."""
    problems_planned: int = Field(ge=0)
    problems_cached: int = Field(default=0, ge=0)
    """Of those done, how many were found in object storage instead of solved."""
    work_done: float = Field(ge=0)
    """FLOPs of the plan that are done (solves and walks)."""
    work_planned: float = Field(ge=0)
    problems_per_second: float | None = None
    """Over the last minute; None before the first solve."""
    eta_seconds: float | None = Field(default=None, ge=0)

    @property
    def fraction(self) -> float:
        """Share of the planned FLOPs that is done, 0 to 1."""
        return min(1.0, self.work_done / self.work_planned) if self.work_planned else 0.0


class AuditRecord(WireModel):
    """One audit."""

    id: str = Field(examples=["01KACM2V7M3J0Q4S8R0V5N9T2E"])
    """Sortable by creation time (ULID)."""
    state: AuditState
    attempt: int = Field(ge=0)
    request: AuditRequest
    created_at: UtcTime
    started_at: UtcTime | None = None
    ended_at: UtcTime | None = None
    progress: Progress | None = None
    problem: Problem | None = None
    """Why the audit failed, or why its last attempt did."""
    summary: Summary | None = None
    """The verdict in short, once succeeded."""
    links: dict[str, str] = Field(default_factory=dict)


class AuditPage(WireModel):
    """One page of audits, newest first."""

    items: list[AuditRecord]
    next_cursor: str | None = None


class EventType(StrEnum):
    """Kinds of events in an audit's stream."""

    STATE = "state"
    PROGRESS = "progress"
    RETRY = "retry"


class Event(WireModel):
    """One thing that happened to an audit; `number` counts from 1 without gaps within the audit."""

    number: int = Field(ge=1)
    at: UtcTime
    type: EventType
    data: dict[str, Any]


class RunPoint(WireModel):
    """One audited step of a run: a point of the YES cloud."""

    audit_id: str
    step: int | None
    training_loss: float | None
    state: AuditState
    summary: Summary | None


class RunSeries(WireModel):
    """`GET /v1/runs/{run}`: the succeeded and pending audits of a run by step."""

    run: str
    points: list[RunPoint]


class RunPage(WireModel):
    """`GET /v1/runs`: the runs that have audits."""

    items: list[Annotated[str, Field(min_length=1)]]


class ArtifactInfo(WireModel):
    """A stored file of an audit's results."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str
    media_type: str
    href: str
    """Where to get it: a short-lived presigned link, or a route of the API."""


class ArtifactPage(WireModel):
    """`GET /v1/audits/{id}/artifacts`."""

    items: list[ArtifactInfo]
