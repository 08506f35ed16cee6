"""Audits: submit, list, follow, cancel, delete."""

import logging
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from peelbound.api import stream
from peelbound.api.admission import admit
from peelbound.api.answers import json_answer
from peelbound.api.auth import Acting, Reader, Writer
from peelbound.api.bodies import Sent
from peelbound.api.context import Service
from peelbound.api.errors import ParameterInvalid
from peelbound.api.problems import Responses, responses
from peelbound.service.retention.erasing import erase
from peelbound.service.schemas.record import AuditPage, AuditRecord, AuditState
from peelbound.service.schemas.request import LABEL_LENGTH, AuditRequest

log = logging.getLogger(__name__)

router = APIRouter(tags=["audits"])

POLL_AGAIN_SECONDS = 2
LONGEST_WAIT_SECONDS = 60
_LINKS = {
    operation: {"operationId": operation, "parameters": {"audit_id": "$response.body#/id"}}
    for operation in (
        "getAudit", "cancelAudit", "deleteAudit", "streamAuditEvents", "getReport", "getReportJson", "getReportPage",
        "listArtifacts",
    )
}  # fmt: skip
"""What can be asked of an audit once it is submitted."""
_SUBMITTED: Responses = {
    200: {"model": AuditRecord, "description": "This Idempotency-Key was used before", "links": _LINKS},
    202: {"links": _LINKS},
}
AuditId = Annotated[str, Path(max_length=64, examples=["01KACM2V7M3J0Q4S8R0V5N9T2E"])]


def with_links(record: AuditRecord) -> AuditRecord:
    """The record with the routes that make sense in its state."""
    here = f"/v1/audits/{record.id}"
    links = {"self": here, "events": f"{here}/events"}
    if record.state is AuditState.SUCCEEDED:
        links |= {"report": f"{here}/report.json", "page": f"{here}/report.html", "artifacts": f"{here}/artifacts"}
    if not record.state.ended:
        links["cancel"] = f"{here}/cancel"
    return record.model_copy(update={"links": links})


@router.post(
    "/v1/audits",
    operation_id="submitAudit",
    status_code=202,
    responses=_SUBMITTED | responses(401, 403, 409, 413, 422),
)
def submit(
    service: Service,
    caller: Writer,
    by: Acting,
    request: Sent[AuditRequest],
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> AuditRecord:
    """Queue an audit. The same Idempotency-Key with the same body answers with the same audit."""
    admit(request, service.allow(caller.tenant))
    record, created = service.audits.submit(caller.tenant, request, idempotency_key, by=by)
    log.info("audit %s %s", record.id, "accepted" if created else "repeated", extra={"audit_id": record.id})
    response.headers["Location"] = f"/v1/audits/{record.id}"
    if not created:
        response.status_code = 200
    return with_links(record)


@router.get("/v1/audits", operation_id="listAudits", response_model=AuditPage, responses=responses(401, 403, 422))
def page(
    service: Service,
    caller: Reader,
    *,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    state: AuditState | None = None,
    run: str | None = None,
    label: Annotated[str | None, Query(description="`key:value`", examples=["team:vision"])] = None,
    checkpoint_prefix: str | None = None,
) -> Response:
    """List audits, newest first."""
    found = service.audits.page(
        caller.tenant,
        state=state,
        run=run,
        labels=None if label is None else _meant(label),
        checkpoint_prefix=checkpoint_prefix,
        cursor=cursor,
        limit=limit,
    )
    return json_answer(found.model_copy(update={"items": [with_links(record) for record in found.items]}))


def _meant(label: str) -> list[tuple[str, str]]:
    """Every key and value that the text can mean: keys may hold colons, and so may values."""
    if ":" not in label:
        raise ParameterInvalid(f"label is {label!r}.", remedy="Write it as key:value.", parameter="label")
    pairs = [(label[:at], label[at + 1 :]) for at, character in enumerate(label) if character == ":"]
    return [pair for pair in pairs if all(1 <= len(part) <= LABEL_LENGTH for part in pair)]


@router.get(
    "/v1/audits/{audit_id}",
    operation_id="getAudit",
    response_model=AuditRecord,
    responses=responses(401, 403, 404, 422),
)
async def get(
    service: Service,
    caller: Reader,
    audit_id: AuditId,
    wait: Annotated[
        float, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="Seconds to wait for the audit to end")
    ] = 0.0,
) -> Response:
    """One audit; with `wait` the answer comes when the audit has ended or the time is over."""
    record = await stream.until_ended(service, caller.tenant, audit_id, wait)
    headers = None if record.state.ended else {"Retry-After": str(POLL_AGAIN_SECONDS)}
    return json_answer(with_links(record), headers)


@router.post("/v1/audits/{audit_id}/cancel", operation_id="cancelAudit", responses=responses(401, 403, 404, 409, 422))
def cancel(service: Service, caller: Writer, by: Acting, audit_id: AuditId) -> AuditRecord:
    """Cancel an audit: at once when it is queued, within seconds when it runs."""
    return with_links(service.audits.cancel(caller.tenant, audit_id, by=by))


@router.delete(
    "/v1/audits/{audit_id}", operation_id="deleteAudit", status_code=204, responses=responses(401, 403, 404, 409, 422)
)
def delete(service: Service, caller: Writer, by: Acting, audit_id: AuditId) -> None:
    """Delete an ended audit with its report, files, events and webhook deliveries, at once. What it solved goes with
    the collections of storage after that, unless another audit has used it."""
    erase(service.audits, service.store, caller.tenant, audit_id, by=by)


def _existing(service: Service, caller: Reader, audit_id: AuditId) -> AuditRecord:
    """Looks the audit up before the stream's status line is sent."""
    return service.audits.get(caller.tenant, audit_id)


async def _place(service: Service, caller: Reader) -> AsyncIterator[None]:
    """Held until the stream has ended or its client has gone."""
    with service.streams.one(caller.tenant):
        yield


@router.get(
    "/v1/audits/{audit_id}/events",
    operation_id="streamAuditEvents",
    response_class=EventSourceResponse,
    responses=responses(401, 403, 404, 422),
    dependencies=[Depends(_place)],
)
async def events(
    service: Service,
    caller: Reader,
    record: Annotated[AuditRecord, Depends(_existing)],
    after: Annotated[int, Query(ge=0, description="Number of the last event seen")] = 0,
    last_event_id: Annotated[int | None, Header(ge=0, description="The same; wins over `after`")] = None,
) -> AsyncIterator[ServerSentEvent]:
    """The audit's events as server-sent events; the stream ends after the state in which the audit ends.

    `id` is the event's number, `event` its type (`state`, `progress`, `retry`), `data` the event as JSON. A comment is
    sent every 15 seconds. A stream may end before that, after an hour at the latest: reconnect with `Last-Event-ID` and
    nothing is missed.
    """
    seen = after if last_event_id is None else last_event_id
    async for event in stream.event_stream(service, caller.tenant, record.id, seen):
        yield event
