"""Waiting for an audit without holding a thread: the database is asked again and again, between short sleeps."""

from collections.abc import AsyncIterator, Iterator

import anyio
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import ServerSentEvent

from peelbound.api.context import Context
from peelbound.service.schemas.record import AuditRecord

LONGEST_SECONDS = 3600.0
"""A stream ends after this at the latest, to be resumed with a token that is good still."""
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.3


def _pauses() -> Iterator[float]:
    """Seconds between looks: short at first, since an audit that is known already ends at once."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(1.25 * pause, LONGEST_PAUSE_SECONDS)


async def until_ended(service: Context, tenant: str, audit_id: str, seconds: float) -> AuditRecord:
    """The audit as soon as it has ended, or as it is when the time is over or the replica is about to end.

    Raises:
        AuditNotFound: the tenant has no such audit.
        TenantBusy: it waits for as many as it may already.
    """
    if seconds:
        with service.streams.one(tenant):
            await _ended(service, tenant, audit_id, seconds)
    return await service.records.of(tenant, audit_id)


async def _ended(service: Context, tenant: str, audit_id: str, seconds: float) -> None:
    deadline = anyio.current_time() + seconds
    pauses = _pauses()
    while (remaining := deadline - anyio.current_time()) > 0 and not service.draining.begun:
        if (await service.states.of(tenant, audit_id)).state.ended:
            return
        await anyio.sleep(min(next(pauses), remaining))


async def event_stream(service: Context, tenant: str, audit_id: str, after: int) -> AsyncIterator[ServerSentEvent]:
    """The audit's events after a number, as they happen, until the one that ends it; or until the stream is old, or the
    replica is about to end."""
    end = anyio.current_time() + LONGEST_SECONDS
    pauses = _pauses()
    while not service.draining.begun and anyio.current_time() < end:
        # State and count are read together: what has ended by then has written all of its events.
        standing = await service.states.of(tenant, audit_id)
        while after < standing.events:
            events = await run_in_threadpool(service.audits.events, tenant, audit_id, after)
            for event in events:
                yield ServerSentEvent(raw_data=event.model_dump_json(), event=event.type, id=str(event.number))
            after = events[-1].number
        if standing.state.ended:
            return
        await anyio.sleep(next(pauses))
