"""The synchronous client."""

import time
from collections.abc import Callable, Iterator
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


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` answers, which is asked again while the service cannot be reached or is unwell, as events are.

    For what may be asked twice and ends hours of waiting.

    Raises:
        ProblemError: the service refuses, or stays unwell.
        httpx2.TransportError: it stays away.
    """
    patience = calls.Patience()
    while True:
        try:
            return ask()
        except (httpx2.TransportError, ProblemError) as error:
            time.sleep(patience.pause(error))


class Client:
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
        ServiceStarting: the one on this machine is about to run, and did not answer within a few seconds.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout: float = 30.0) -> None:
        endpoint = find_endpoint(url, token)
        self._timeout = timeout
        # A transport of its own takes the environment's certificates, and not its proxies.
        direct = httpx2.HTTPTransport() if endpoint.on_loopback else None
        self._http = httpx2.Client(base_url=endpoint.url, headers=endpoint.headers, timeout=timeout, transport=direct)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    @property
    def url(self) -> str:
        """The service's address."""
        return str(self._http.base_url).rstrip("/")

    def submit(self, request: AuditRequest, *, idempotency_key: str | None = None) -> AuditRecord:
        """Queue an audit; with the same key and request it answers with the same audit."""
        return self._send(calls.submit(request, idempotency_key))

    def plan(self, request: AuditRequest) -> AuditPlan:
        """What an audit would do and cost."""
        return self._send(calls.plan(request))

    def get(self, audit_id: str, *, wait: float = 0.0) -> AuditRecord:
        """One audit; with `wait` (up to 60 seconds) as soon as it has ended, or as it is then."""
        return self._send(calls.get(audit_id, wait))

    def page(
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
        return self._send(
            calls.page(
                state=state, run=run, label=label, checkpoint_prefix=checkpoint_prefix, cursor=cursor, limit=limit
            )
        )

    def iterate(
        self,
        *,
        state: AuditState | None = None,
        run: str | None = None,
        label: tuple[str, str] | None = None,
        checkpoint_prefix: str | None = None,
    ) -> Iterator[AuditRecord]:
        """All audits that fit, newest first, fetched page by page."""
        cursor = None
        while True:
            page = self.page(state=state, run=run, label=label, checkpoint_prefix=checkpoint_prefix, cursor=cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def events(self, audit_id: str, *, after: int = 0) -> Iterator[Event]:
        """The audit's events after a number until the one that ends it; resumes when the connection breaks."""
        following = calls.Following(after)
        while not following.ended:
            try:
                yield from self._connected(audit_id, following)
                if not following.ended:
                    if following.exhausted(self.get(audit_id).state.ended):
                        return
                    time.sleep(following.rest())
            except (httpx2.TransportError, ProblemError) as error:
                time.sleep(following.pause(error))

    def _connected(self, audit_id: str, following: calls.Following) -> Iterator[Event]:
        with self._http.sse(
            calls.audit_path(audit_id, "events"),
            headers={"Last-Event-ID": str(following.after)},
            follow_redirects=True,
            timeout=httpx2.Timeout(self._timeout, read=calls.SILENCE_SECONDS),
        ) as source:
            if not calls.is_event_stream(source.response):
                source.response.read()
                raise calls.problem_of(source.response)
            following.begin(source.response)
            for message in source:
                if (event := following.take(message)) is not None:
                    yield event

    def wait(self, audit_id: str, *, progress: Callable[[Progress], None] | None = None) -> AuditRecord:
        """The audit once it has ended, however it ended; `progress` is called as it advances."""
        for event in self.events(audit_id):
            if progress is not None and (advance := calls.progress_of(event)) is not None:
                progress(advance)
        return patiently(lambda: self.get(audit_id))

    def cancel(self, audit_id: str) -> AuditRecord:
        """Cancel an audit."""
        return self._send(calls.cancel(audit_id))

    def delete(self, audit_id: str) -> None:
        """Delete an ended audit with its report and artifacts."""
        self._send(calls.delete(audit_id))

    def report(self, audit_id: str) -> Report:
        """What the audit found."""
        return self._send(calls.report(audit_id))

    def report_json(self, audit_id: str) -> bytes:
        """The report's canonical JSON, byte for byte."""
        return self._send(calls.report_json(audit_id))

    def report_html(self, audit_id: str) -> str:
        """The report as a page that stands alone."""
        return self._send(calls.report_html(audit_id))

    def artifacts(self, audit_id: str) -> list[ArtifactInfo]:
        """The files that the audit keeps."""
        return self._send(calls.artifacts(audit_id)).items

    def artifact(self, audit_id: str, name: str) -> bytes:
        """One of these files."""
        return self._send(calls.artifact(audit_id, name))

    def runs(self) -> list[str]:
        """The runs that have audits."""
        return self._send(calls.runs()).items

    def run(self, name: str) -> RunSeries:
        """A run's audits by step."""
        return self._send(calls.run(name))

    def run_html(self, name: str) -> str:
        """A run's YES cloud as a page that stands alone."""
        return self._send(calls.run_html(name))

    def create_webhook(self, request: WebhookRequest) -> WebhookWithSecret:
        """Make an endpoint that is told when audits end; its secret is shown this once."""
        return self._send(calls.create_webhook(request))

    def webhooks(self) -> list[Webhook]:
        """The tenant's endpoints, oldest first."""
        return self._send(calls.webhooks()).items

    def webhook(self, webhook_id: str) -> Webhook:
        """One endpoint."""
        return self._send(calls.webhook(webhook_id))

    def update_webhook(self, webhook_id: str, change: WebhookChange) -> Webhook:
        """Change an endpoint; what is not given stays."""
        return self._send(calls.update_webhook(webhook_id, change))

    def delete_webhook(self, webhook_id: str) -> None:
        """Delete an endpoint with its deliveries."""
        self._send(calls.delete_webhook(webhook_id))

    def rotate_webhook(self, webhook_id: str, *, overlap_seconds: int = 24 * 3600) -> WebhookWithSecret:
        """Give an endpoint a new secret, shown this once; until the overlap ends the old one signs too."""
        return self._send(calls.rotate_webhook(webhook_id, RotateRequest(overlap_seconds=overlap_seconds)))

    def test_webhook(self, webhook_id: str) -> Delivery:
        """Send an endpoint a message of the type `webhook.test`."""
        return self._send(calls.test_webhook(webhook_id))

    def deliveries(
        self, webhook_id: str, *, state: DeliveryState | None = None, cursor: str | None = None, limit: int = 50
    ) -> DeliveryPage:
        """One page of what was sent to an endpoint, newest first, with each attempt."""
        return self._send(calls.deliveries(webhook_id, state=state, cursor=cursor, limit=limit))

    def redeliver(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a message again under the same id."""
        return self._send(calls.redeliver(webhook_id, delivery_id))

    def _send(self, call: Call[T]) -> T:
        response = self._http.request(
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
