"""The service's routes as values: what to send and how to read the answer, shared by both clients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import Field, ValidationError

from peelbound import __version__
from peelbound.errors import ProblemError
from peelbound.service.schemas.base import WireModel
from peelbound.service.schemas.plan import AuditPlan
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.record import (
    ArtifactPage,
    AuditPage,
    AuditRecord,
    AuditState,
    Event,
    EventType,
    Progress,
    RunPage,
    RunSeries,
)
from peelbound.service.schemas.report import Report
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.schemas.webhook import (
    Delivery,
    DeliveryPage,
    DeliveryState,
    RotateRequest,
    Webhook,
    WebhookChange,
    WebhookPage,
    WebhookRequest,
    WebhookWithSecret,
)
from peelbound.service.webhooks.retry_after import seconds_asked

T = TypeVar("T")
M = TypeVar("M", bound=WireModel)

PLAN_SECONDS = 130.0
"""A request for a plan waits for its turn for up to 65 seconds, and the plan itself may then take a minute."""
SILENCE_SECONDS = 45.0
"""An event stream sends a comment every 15 seconds; three missed ones mean that the connection is dead."""
RECONNECT_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0)
"""Pauses between attempts to reach the service again before giving up; a longer wait that it asks for (`Retry-After`)
is kept to, up to the longest of these."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and the reading of its answer."""

    method: str
    path: str
    read: Callable[[httpx2.Response], T]
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    extra_seconds: float = 0.0
    """How much longer than usual the answer may take to come; a connection gets no longer."""


def submit(request: AuditRequest, idempotency_key: str | None) -> Call[AuditRecord]:
    """`POST /v1/audits`.

    Raises:
        ProblemError: the key is none that a header may carry (`parameter-invalid`, as the service would say).
    """
    headers = _JSON
    if idempotency_key is not None:
        if not (idempotency_key.isascii() and idempotency_key.isprintable()):
            detail = "An Idempotency-Key holds printable ASCII only."
            raise ProblemError(Problem.make("parameter-invalid", "A parameter is not valid", 422, detail))
        headers = {**_JSON, "Idempotency-Key": idempotency_key}
    return Call("POST", "/v1/audits", _model(AuditRecord), headers=headers, content=_body(request))


def plan(request: AuditRequest) -> Call[AuditPlan]:
    """`POST /v1/audits:plan`."""
    return Call(
        "POST",
        "/v1/audits:plan",
        _model(AuditPlan),
        headers=_JSON,
        content=_body(request),
        extra_seconds=PLAN_SECONDS,
    )


def get(audit_id: str, wait: float) -> Call[AuditRecord]:
    """`GET /v1/audits/{id}`."""
    return Call("GET", audit_path(audit_id), _model(AuditRecord), params={"wait": wait}, extra_seconds=wait)


def page(
    *,
    state: AuditState | None,
    run: str | None,
    label: tuple[str, str] | None,
    checkpoint_prefix: str | None,
    cursor: str | None,
    limit: int,
) -> Call[AuditPage]:
    """`GET /v1/audits`."""
    given = {
        "state": state,
        "run": run,
        "label": None if label is None else ":".join(label),
        "checkpoint_prefix": checkpoint_prefix,
        "cursor": cursor,
        "limit": limit,
    }
    params = {name: value for name, value in given.items() if value is not None}
    return Call("GET", "/v1/audits", _model(AuditPage), params=params)


def cancel(audit_id: str) -> Call[AuditRecord]:
    """`POST /v1/audits/{id}/cancel`."""
    return Call("POST", audit_path(audit_id, "cancel"), _model(AuditRecord))


def delete(audit_id: str) -> Call[None]:
    """`DELETE /v1/audits/{id}`."""
    return Call("DELETE", audit_path(audit_id), lambda _response: None)


def report(audit_id: str) -> Call[Report]:
    """`GET /v1/audits/{id}/report.json`."""
    return Call("GET", audit_path(audit_id, "report.json"), _model(Report))


def report_json(audit_id: str) -> Call[bytes]:
    """`GET /v1/audits/{id}/report.json`, byte for byte."""
    return Call("GET", audit_path(audit_id, "report.json"), lambda response: response.content)


def report_html(audit_id: str) -> Call[str]:
    """`GET /v1/audits/{id}/report.html`."""
    return Call("GET", audit_path(audit_id, "report.html"), lambda response: response.text)


def artifacts(audit_id: str) -> Call[ArtifactPage]:
    """`GET /v1/audits/{id}/artifacts`."""
    return Call("GET", audit_path(audit_id, "artifacts"), _model(ArtifactPage))


def artifact(audit_id: str, name: str) -> Call[bytes]:
    """`GET /v1/audits/{id}/artifacts/{name}`."""
    return Call("GET", audit_path(audit_id, "artifacts", name), lambda response: response.content)


def runs() -> Call[RunPage]:
    """`GET /v1/runs`."""
    return Call("GET", "/v1/runs", _model(RunPage))


def run(name: str) -> Call[RunSeries]:
    """`GET /v1/runs/{run}`."""
    return Call("GET", f"/v1/runs/{quote(name, safe='')}", _model(RunSeries))


def run_html(name: str) -> Call[str]:
    """`GET /v1/runs/{run}/report.html`."""
    return Call("GET", f"/v1/runs/{quote(name, safe='')}/report.html", lambda response: response.text)


def create_webhook(request: WebhookRequest) -> Call[WebhookWithSecret]:
    """`POST /v1/webhooks`."""
    return Call("POST", "/v1/webhooks", _model(WebhookWithSecret), headers=_JSON, content=_body(request))


def webhooks() -> Call[WebhookPage]:
    """`GET /v1/webhooks`."""
    return Call("GET", "/v1/webhooks", _model(WebhookPage))


def webhook(webhook_id: str) -> Call[Webhook]:
    """`GET /v1/webhooks/{id}`."""
    return Call("GET", _webhook_path(webhook_id), _model(Webhook))


def update_webhook(webhook_id: str, change: WebhookChange) -> Call[Webhook]:
    """`PATCH /v1/webhooks/{id}`."""
    return Call("PATCH", _webhook_path(webhook_id), _model(Webhook), headers=_JSON, content=_body(change))


def delete_webhook(webhook_id: str) -> Call[None]:
    """`DELETE /v1/webhooks/{id}`."""
    return Call("DELETE", _webhook_path(webhook_id), lambda _response: None)


def rotate_webhook(webhook_id: str, request: RotateRequest) -> Call[WebhookWithSecret]:
    """`POST /v1/webhooks/{id}/rotate`."""
    path = _webhook_path(webhook_id, "rotate")
    return Call("POST", path, _model(WebhookWithSecret), headers=_JSON, content=_body(request))


def test_webhook(webhook_id: str) -> Call[Delivery]:
    """`POST /v1/webhooks/{id}/test`."""
    return Call("POST", _webhook_path(webhook_id, "test"), _model(Delivery))


def deliveries(webhook_id: str, *, state: DeliveryState | None, cursor: str | None, limit: int) -> Call[DeliveryPage]:
    """`GET /v1/webhooks/{id}/deliveries`."""
    given = {"state": state, "cursor": cursor, "limit": limit}
    params = {name: value for name, value in given.items() if value is not None}
    return Call("GET", _webhook_path(webhook_id, "deliveries"), _model(DeliveryPage), params=params)


def redeliver(webhook_id: str, delivery_id: str) -> Call[Delivery]:
    """`POST /v1/webhooks/{id}/deliveries/{delivery}/redeliver`."""
    return Call("POST", _webhook_path(webhook_id, "deliveries", delivery_id, "redeliver"), _model(Delivery))


def audit_path(audit_id: str, *below: str) -> str:
    """The path of an audit or of something that belongs to it."""
    return "/".join(["/v1/audits", *(quote(part, safe="") for part in (audit_id, *below))])


def _webhook_path(webhook_id: str, *below: str) -> str:
    return "/".join(["/v1/webhooks", *(quote(part, safe="") for part in (webhook_id, *below))])


def problem_of(response: httpx2.Response) -> ProblemError:
    """The error for an answer that is not what was asked for, also when something before the service gave it."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem.make(
            "not-a-problem", "Not an answer of this service", max(400, response.status_code), *_stranger(response)
        )
    return ProblemError(problem, retry_after=_asked_wait(response))


def _stranger(response: httpx2.Response) -> tuple[str, str]:
    """What something else than the service answered, and what to do."""
    asked = response.request.url.copy_with(userinfo=b"")  # it may hold a password
    said = f"{asked} answered {response.status_code} {response.reason_phrase}"
    if response.next_request is not None:
        # Followed as 301 and 302 mostly are, by a GET without the body, it would seem to be done, and would not be.
        url = response.next_request.url
        there = f"{url.scheme}://{url.netloc.decode('ascii')}"
        return (
            f"{said}, which sends a {response.request.method} on to {there}; only a GET follows.",
            "Give the service's own address (PEELBOUND_URL).",
        )
    if response.is_success:
        kind = response.headers.get("Content-Type", "").partition(";")[0] or "no content type"
        return f"{said} with {kind}, which is not this service's.", "Check PEELBOUND_URL, and what stands before it."
    return f"{said}.", ""


def is_event_stream(response: httpx2.Response) -> bool:
    """Whether the service has taken up a stream of events."""
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    return response.is_success and kind.strip().lower() == "text/event-stream"


class Patience:
    """How often in a row the service failed to answer; that it has no place yet (`tenant-busy`) is an answer."""

    def __init__(self) -> None:
        self._failures = 0

    def pause(self, error: Exception) -> float:
        """Seconds to wait before trying again; the error itself where that is no use, or was done too often."""
        asked = None
        if isinstance(error, ProblemError):
            if error.problem.status < 500 and error.problem.status != 429:
                raise error
            asked = error.retry_after
            if asked is not None and error.problem.slug == "tenant-busy":
                # It is well, and others' streams hold the places, maybe for hours.
                self._failures = 0
                return _at_least(RECONNECT_SECONDS[0], asked)
        if self._failures == len(RECONNECT_SECONDS):
            raise error
        self._failures += 1
        return _at_least(RECONNECT_SECONDS[self._failures - 1], asked)


class Following(Patience):
    """Where a reader of an event stream is: what it has seen, and how often in a row it failed to reach the service."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after
        self.ended = False
        self._asked: float | None = None
        self._brought = False
        self._over = False

    def begin(self, response: httpx2.Response) -> None:
        """The service has taken up the stream: attempts that failed before count no more, though no event may come."""
        self._failures = 0
        self._asked = _asked_wait(response)
        self._brought = False

    def take(self, message: httpx2.ServerSentEvent) -> Event | None:
        """The event in a message; None for one of a kind that only a later version knows.

        Raises:
            ProblemError: it is no event (`other-version`).
        """
        try:
            found = _AnyEvent.model_validate_json(message.data, extra="ignore")
            event = Event.model_validate_json(message.data, extra="ignore") if found.type in _KINDS else None
        except ValidationError as error:
            raise _other_version("An event", error) from error
        self.after, self._brought = found.number, True
        if event is not None:
            self.ended = event.type is EventType.STATE and event.data.get("state") in _ENDS
        return event

    def exhausted(self, audit_ended: bool) -> bool:
        """Whether no event can come any more, after a stream that ended in order without the audit's last event.

        A replica that is about to end may end the stream first, and the audit only then: its last event is still to be
        had, from another replica. But a stream that was begun when the audit had ended would have brought it.

        Args:
            audit_ended: whether the audit has ended by now.
        """
        exhausted = self._over and not self._brought
        self._over = audit_ended
        return exhausted

    def rest(self) -> float:
        """Seconds to wait before connecting again after a stream that ended in order, but before its audit.

        The replica that sent it is about to end, and may be asked again before its load balancer knows.
        """
        return _at_least(RECONNECT_SECONDS[0], self._asked)


class _AnyEvent(WireModel):
    """What events have in common in all versions."""

    number: int = Field(ge=1)
    type: str


_KINDS = frozenset(EventType)
_ENDS = frozenset(state for state in AuditState if state.ended)
_JSON = {"Content-Type": "application/json"}


def progress_of(event: Event) -> Progress | None:
    """How far the audit is, if the event says so in words of this version."""
    try:
        return Progress.model_validate(event.data, extra="ignore") if event.type is EventType.PROGRESS else None
    except ValidationError:
        return None


def _other_version(what: str, error: ValidationError) -> ProblemError:
    """The error for JSON that has not the form that this version knows."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = "/".join(map(str, first["loc"]))
    return ProblemError(
        Problem.make(
            "other-version",
            "An answer of another version",
            400,
            f"{what} was written by another version of Peelbound than this, {__version__}, if by Peelbound at all"
            f" ({where}: {first['msg']}).",
            "Install the client in the service's version, and check PEELBOUND_URL.",
        )
    )


def _asked_wait(response: httpx2.Response) -> float | None:
    value = response.headers.get("Retry-After")
    return None if value is None else seconds_asked(value, datetime.now(UTC))


def _at_least(seconds: float, asked: float | None) -> float:
    """The pause, or the longer one that the service asks for, within reason."""
    return max(seconds, min(asked or 0.0, max(RECONNECT_SECONDS)))


def _body(request: WireModel) -> bytes:
    return request.model_dump_json(exclude_none=True).encode()


def _model(kind: type[M]) -> Callable[[httpx2.Response], M]:
    def read(response: httpx2.Response) -> M:
        try:
            return kind.model_validate_json(response.content, extra="ignore")
        except ValidationError as error:
            if any(each["type"] == "json_invalid" for each in error.errors(include_input=False)):
                raise problem_of(response) from error
            asked = response.request.url.copy_with(userinfo=b"", query=None)
            raise _other_version(f"What {asked} answered", error) from error

    return read
