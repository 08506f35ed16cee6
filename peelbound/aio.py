"""The asynchronous client: as `peelbound.client`, awaited."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self, TypeVar

import httpx2

from peelbound import calls
from peelbound.calls import Call
from peelbound.endpoint import find_endpoint
from peelbound.errors import ProblemError
from peelbound.service.schemas.plan import AuditPlan
from peelbound.service.schemas.record import (
    ArtifactInfo,
    AuditPage,
    AuditRecord,
    AuditState,
    Event,
    Progress,
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
    WebhookRequest,
    WebhookWithSecret,
)

T = TypeVar("T")


class AsyncClient:
    """Talks to a Peelbound service.

    Every method raises `ProblemError` when the service refuses, and `httpx2.TransportError` when it cannot be reached.

    Args:
        url: the service; None: `PEELBOUND_URL`, or the embedded service that runs on this machine.
        token: a bearer token; None: `PEELBOUND_TOKEN`, or the embedded service's own.
        timeout: seconds to wait for a connection, for the beginning of an answer, and for each further piece of it. It
            bounds no call as a whole: a host may have several addresses, and an answer many pieces.

    Raises:
        EndpointInvalid: the address, the token or the state directory cannot be one.
        ServiceNotFound: no service is given and none runs.
        ServiceStarting: the one on this machine is about to run. `Client` waits for it; here that would hold up all
            that the event loop does.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout: float = 30.0) -> None:
        endpoint = find_endpoint(url, token, patient=False)
        self._timeout = timeout
        # A transport of its own takes the environment's certificates, and not its proxies.
        direct = httpx2.AsyncHTTPTransport() if endpoint.on_loopback else None
        self._http = httpx2.AsyncClient(
            base_url=endpoint.url, headers=endpoint.headers, timeout=timeout, transport=direct
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    @property
    def url(self) -> str:
        """The service's address."""
        return str(self._http.base_url).rstrip("/")

    async def submit(self, request: AuditRequest, *, idempotency_key: str | None = None) -> AuditRecord:
        """Queue an audit; with the same key and request it answers with the same audit."""
        return await self._send(calls.submit(request, idempotency_key))

    async def plan(self, request: AuditRequest) -> AuditPlan:
        """What an audit would do and cost."""
        return await self._send(calls.plan(request))

    async def get(self, audit_id: str, *, wait: float = 0.0) -> AuditRecord:
        """One audit; with `wait` (up to 60 seconds) as soon as it has ended, or as it is then."""
        return await self._send(calls.get(audit_id, wait))

    async def page(
        self,
        *,
        state: AuditState | None = None,
        run: str | None = None,
        label: tuple[str, str] | None = None,
        checkpoint_prefix: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> AuditPage:
        """One page of audits, newest first."""
        return await self._send(
            calls.page(
                state=state, run=run, label=label, checkpoint_prefix=checkpoint_prefix, cursor=cursor, limit=limit
            )
        )

    async def iterate(
        self,
        *,
        state: AuditState | None = None,
        run: str | None = None,
        label: tuple[str, str] | None = None,
        checkpoint_prefix: str | None = None,
    ) -> AsyncIterator[AuditRecord]:
        """All audits that fit, newest first, fetched page by page."""
        cursor = None
        while True:
            page = await self.page(
                state=state, run=run, label=label, checkpoint_prefix=checkpoint_prefix, cursor=cursor
            )
            for record in page.items:
                yield record
            cursor = page.next_cursor
            if cursor is None:
                return

    async def events(self, audit_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """The audit's events after a number until the one that ends it; resumes when the connection breaks."""
        following = calls.Following(after)
        while not following.ended:
            try:
                async for event in self._connected(audit_id, following):
                    yield event
                if not following.ended:
                    if following.exhausted((await self.get(audit_id)).state.ended):
                        return
                    await asyncio.sleep(following.rest())
            except (httpx2.TransportError, ProblemError) as error:
                await asyncio.sleep(following.pause(error))

    async def _connected(self, audit_id: str, following: calls.Following) -> AsyncIterator[Event]:
        async with self._http.sse(
            calls.audit_path(audit_id, "events"),
            headers={"Last-Event-ID": str(following.after)},
            follow_redirects=True,
            timeout=httpx2.Timeout(self._timeout, read=calls.SILENCE_SECONDS),
        ) as source:
            if not calls.is_event_stream(source.response):
                await source.response.aread()
                raise calls.problem_of(source.response)
            following.begin(source.response)
            async for message in source:
                if (event := following.take(message)) is not None:
                    yield event

    async def wait(self, audit_id: str, *, progress: Callable[[Progress], None] | None = None) -> AuditRecord:
        """The audit once it has ended, however it ended; `progress` is called as it advances."""
        async for event in self.events(audit_id):
            if progress is not None and (advance := calls.progress_of(event)) is not None:
                progress(advance)
        patience = calls.Patience()
        while True:
            try:
                return await self.get(audit_id)
            except (httpx2.TransportError, ProblemError) as error:
                await asyncio.sleep(patience.pause(error))

    async def cancel(self, audit_id: str) -> AuditRecord:
        """Cancel an audit."""
        return await self._send(calls.cancel(audit_id))

    async def delete(self, audit_id: str) -> None:
        """Delete an ended audit with its report and artifacts."""
        await self._send(calls.delete(audit_id))

    async def report(self, audit_id: str) -> Report:
        """What the audit found."""
        return await self._send(calls.report(audit_id))

    async def report_json(self, audit_id: str) -> bytes:
        """The report's canonical JSON, byte for byte."""
        return await self._send(calls.report_json(audit_id))

    async def report_html(self, audit_id: str) -> str:
        """The report as a page that stands alone."""
        return await self._send(calls.report_html(audit_id))

    async def artifacts(self, audit_id: str) -> list[ArtifactInfo]:
        """The files that the audit keeps."""
        return (await self._send(calls.artifacts(audit_id))).items

    async def artifact(self, audit_id: str, name: str) -> bytes:
        """One of these files."""
        return await self._send(calls.artifact(audit_id, name))

    async def runs(self) -> list[str]:
        """The runs that have audits."""
        return (await self._send(calls.runs())).items

    async def run(self, name: str) -> RunSeries:
        """A run's audits by step."""
        return await self._send(calls.run(name))

    async def run_html(self, name: str) -> str:
        """A run's YES cloud as a page that stands alone."""
        return await self._send(calls.run_html(name))

    async def create_webhook(self, request: WebhookRequest) -> WebhookWithSecret:
        """Make an endpoint that is told when audits end; its secret is shown this once."""
        return await self._send(calls.create_webhook(request))

    async def webhooks(self) -> list[Webhook]:
        """The tenant's endpoints, oldest first."""
        return (await self._send(calls.webhooks())).items

    async def webhook(self, webhook_id: str) -> Webhook:
        """One endpoint."""
        return await self._send(calls.webhook(webhook_id))

    async def update_webhook(self, webhook_id: str, change: WebhookChange) -> Webhook:
        """Change an endpoint; what is not given stays."""
        return await self._send(calls.update_webhook(webhook_id, change))

    async def delete_webhook(self, webhook_id: str) -> None:
        """Delete an endpoint with its deliveries."""
        await self._send(calls.delete_webhook(webhook_id))

    async def rotate_webhook(self, webhook_id: str, *, overlap_seconds: int = 24 * 3600) -> WebhookWithSecret:
        """Give an endpoint a new secret, shown this once; until the overlap ends the old one signs too."""
        return await self._send(calls.rotate_webhook(webhook_id, RotateRequest(overlap_seconds=overlap_seconds)))

    async def test_webhook(self, webhook_id: str) -> Delivery:
        """Send an endpoint a message of the type `webhook.test`."""
        return await self._send(calls.test_webhook(webhook_id))

    async def deliveries(
        self, webhook_id: str, *, state: DeliveryState | None = None, cursor: str | None = None, limit: int = 50
    ) -> DeliveryPage:
        """One page of what was sent to an endpoint, newest first, with each attempt."""
        return await self._send(calls.deliveries(webhook_id, state=state, cursor=cursor, limit=limit))

    async def redeliver(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a message again under the same id."""
        return await self._send(calls.redeliver(webhook_id, delivery_id))

    async def _send(self, call: Call[T]) -> T:
        response = await self._http.request(
            call.method,
            call.path,
            params=call.params or None,
            headers=call.headers,
            content=call.content,
            timeout=httpx2.Timeout(self._timeout, read=self._timeout + call.extra_seconds),
            follow_redirects=call.method == "GET",
        )
        if not response.is_success:
            raise calls.problem_of(response)
        return call.read(response)
