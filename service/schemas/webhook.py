"""Webhooks on the wire: endpoints, and the deliveries to them."""

from enum import StrEnum
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import ConfigDict, Field, StringConstraints

from peelbound.service.schemas.base import UtcTime, Whole, WireModel

Url = Annotated[str, Field(min_length=1, max_length=2048, examples=["https://ci.example.com/hooks/peelbound"])]
Description = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
LONGEST_OVERLAP_SECONDS = 7 * 24 * 3600
TEST: Literal["webhook.test"] = "webhook.test"
"""The type of a message that tells of no audit."""


class WebhookEvent(StrEnum):
    """What an endpoint may ask to be told of."""

    SUCCEEDED = "audit.succeeded"
    FAILED = "audit.failed"
    CANCELLED = "audit.cancelled"


Events = Annotated[list[WebhookEvent], Field(fail_fast=True, min_length=1, max_length=len(WebhookEvent))]


class WebhookRequest(WireModel):
    """The body of `POST /v1/webhooks`."""

    url: Url
    """Where messages are posted to: https, and a host with a public address, unless the service's settings allow
    others. No user name, no fragment."""
    events: Events = Field(default_factory=lambda: list(WebhookEvent))
    """Which ends of audits to tell of; all by default."""
    description: Description = ""


class WebhookChange(WireModel):
    """The body of `PATCH /v1/webhooks/{id}`: what is not given stays."""

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None
    """False ends what waits to be delivered as failed; true lets new messages come again."""


class RotateRequest(WireModel):
    """The body of `POST /v1/webhooks/{id}/rotate`."""

    overlap_seconds: Whole = Field(default=24 * 3600, ge=0, le=LONGEST_OVERLAP_SECONDS)
    """How long messages are signed with the old secret too."""


class DisabledBecause(StrEnum):
    """Why an endpoint gets no messages."""

    REQUESTED = "requested"
    GONE = "gone"
    """It answered 410 Gone."""


class Webhook(WireModel):
    """An endpoint, without its secret."""

    id: str = Field(examples=["01KACM2V7M3J0Q4S8R0V5N9T2E"])
    url: str = Field(examples=["https://ci.example.com/hooks/peelbound", "https://ci.example.com/***"])
    """Where messages are posted to. Path and query may hold secrets: a token that only reads is shown `***`."""
    events: list[WebhookEvent]
    description: str
    created_at: UtcTime
    disabled_at: UtcTime | None = None
    disabled_because: DisabledBecause | None = None
    previous_secret_until: UtcTime | None = None
    """Until then messages carry a signature by the secret before the last rotation too."""

    def masked(self) -> Self:
        """The endpoint with the host of its URL only, for those who may not change it."""
        scheme, host, *_ = urlsplit(self.url)
        return self.model_copy(update={"url": urlunsplit((scheme, host, "/***", "", ""))})


class WebhookWithSecret(Webhook):
    """An endpoint as it answers a creation or a rotation: the one time that its secret is shown."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    """Verifies signatures (Standard Webhooks, `v1`: HMAC-SHA256). The service keeps it and never shows it again."""


class WebhookPage(WireModel):
    """`GET /v1/webhooks`: all of the tenant's endpoints, oldest first."""

    items: list[Webhook]


class DeliveryState(StrEnum):
    """pending → delivered | failed; a redelivery makes it pending again."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class DeliveryAttempt(WireModel):
    """One time that a message was posted."""

    number: int = Field(ge=1)
    at: UtcTime
    seconds: float | None = None
    """How long it took once the host's addresses were known, 0 where none may be called; None while it goes on, or
    where nobody wrote down how it ended."""
    status: int | None = None
    """The HTTP status of the answer, if there was one."""
    error: str | None = None
    """Why the attempt counts as failed, if it does."""


class Delivery(WireModel):
    """One message to one endpoint."""

    id: str = Field(examples=["01KACM2V7M3J0Q4S8R0V5N9T2E"])
    """The `webhook-id` header: the same in every attempt and redelivery, so that a receiver can tell a repetition."""
    type: str = Field(examples=["audit.succeeded", "webhook.test"])
    audit_id: str | None
    """None of a test, and of an audit that was deleted before its end could be told; `body` names it still."""
    state: DeliveryState
    created_at: UtcTime
    ended_at: UtcTime | None = None
    next_attempt_at: UtcTime | None = None
    """While pending."""
    body: str
    """What is posted, byte for byte: JSON with `type`, `timestamp` and `data`."""
    attempts: list[DeliveryAttempt]
    """In order."""


class DeliveryPage(WireModel):
    """`GET /v1/webhooks/{id}/deliveries`: a page of the endpoint's deliveries, newest first."""

    items: list[Delivery]
    next_cursor: str | None = None


class _Told(WireModel):
    """Part of a message. Its schema leaves room for the fields of later versions, as that of answers does: it is the
    receiver's, to whom a message is an input."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("additionalProperties"))


class ShortVerdict(_Told):
    """The verdict of an audit that succeeded, in short."""

    status: str
    headline: str
    inert_blocks: list[int]
    lagging_blocks: list[int]
    untrained_blocks: list[int]


class ShortProblem(_Told):
    """Why an audit failed, in short. The audit's own `problem` has the details, which may name files and hosts."""

    type: str
    title: str


class EndedAudit(_Told):
    """`data` of the messages `audit.succeeded`, `audit.failed` and `audit.cancelled`."""

    id: str
    state: str
    attempt: int
    created_at: UtcTime
    ended_at: UtcTime
    run: str | None
    step: int | None
    verdict: ShortVerdict | None
    problem: ShortProblem | None
    links: dict[str, str]


class AuditMessage(_Told):
    """What is posted to an endpoint when an audit has ended."""

    type: WebhookEvent
    timestamp: UtcTime
    """When it ended."""
    data: EndedAudit


class TriedEndpoint(_Told):
    """`data` of the message `webhook.test`."""

    webhook_id: str = Field(examples=["01KACM2V7M3J0Q4S8R0V5N9T2E"])


class TrialMessage(_Told):
    """What is posted to an endpoint when somebody asks for a test."""

    type: Literal["webhook.test"]
    timestamp: UtcTime
    """When it was asked for."""
    data: TriedEndpoint
