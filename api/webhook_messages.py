"""What users' endpoints are sent, for the OpenAPI document: of these, nothing is served here.

Code generators and mock servers make receivers from it.
"""

from typing import Annotated

from fastapi import APIRouter, Header

from peelbound.service.schemas.webhook import AuditMessage, TrialMessage

messages = APIRouter(tags=["webhooks"])

MessageId = Annotated[
    str,
    Header(
        alias="webhook-id",
        description="The same in every repetition of a message.",
        examples=["01KACM2V7M3J0Q4S8R0V5N9T2E"],
    ),
]
SentAt = Annotated[
    int,
    Header(alias="webhook-timestamp", description="When this attempt was made, in seconds since 1970.", ge=0),
]
Signatures = Annotated[
    str,
    Header(
        alias="webhook-signature",
        description="`v1,` and a signature (Standard Webhooks); two, separated by a space, while a rotation overlaps.",
        examples=["v1,bm9ldHUjKzFob2VudXRob2VodWUzMjRvdWVvdW9ldQo="],
    ),
]
_ANSWERS: dict[int | str, dict[str, str]] = {
    204: {"description": "It has arrived; so says any answer from 200 to 299."},
    410: {"description": "The endpoint is gone: it is sent no more until it is enabled again."},
    "default": {"description": "It has not arrived, and is sent again later."},
}


@messages.post("audit-ended", operation_id="auditEnded", status_code=204, responses=_ANSWERS)
def audit_ended(message: AuditMessage, message_id: MessageId, sent_at: SentAt, signatures: Signatures) -> None:
    """An audit has succeeded, failed or been cancelled."""


@messages.post("webhook-test", operation_id="webhookTest", status_code=204, responses=_ANSWERS)
def webhook_test(message: TrialMessage, message_id: MessageId, sent_at: SentAt, signatures: Signatures) -> None:
    """Somebody has asked for a test."""
