"""Webhooks: endpoints that are told when audits end, and what became of the messages."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from peelbound.api.auth import Acting, Reader, Writer
from peelbound.api.bodies import Sent
from peelbound.api.context import Service
from peelbound.api.problems import responses
from peelbound.service.database.tokens import Identity
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
from peelbound.service.webhooks.targets import Allowed, parse_target

router = APIRouter(tags=["webhooks"])

WebhookId = Annotated[str, Path(max_length=64, examples=["01KACM2V7M3J0Q4S8R0V5N9T2E"])]
DeliveryId = Annotated[str, Path(max_length=64, examples=["01KACM2V7M3J0Q4S8R0V5N9T2E"])]


@router.post(
    "/v1/webhooks",
    operation_id="createWebhook",
    status_code=201,
    responses=responses(401, 403, 409, 413, 422),
)
def create(
    service: Service, caller: Writer, by: Acting, request: Sent[WebhookRequest], response: Response
) -> WebhookWithSecret:
    """Make an endpoint that is told when audits end. Its secret is in this answer and in no other."""
    webhook = service.webhooks.create(caller.tenant, request, _checked(service, request.url), by=by)
    response.headers["Location"] = f"/v1/webhooks/{webhook.id}"
    return webhook


@router.get("/v1/webhooks", operation_id="listWebhooks", responses=responses(401, 403))
def listing(service: Service, caller: Reader) -> WebhookPage:
    """List the tenant's endpoints. A token without the scopes `write` and `admin` is shown hosts instead of URLs."""
    return WebhookPage(items=[_as_seen_by(caller, webhook) for webhook in service.webhooks.listed(caller.tenant)])


@router.get("/v1/webhooks/{webhook_id}", operation_id="getWebhook", responses=responses(401, 403, 404, 422))
def get(service: Service, caller: Reader, webhook_id: WebhookId) -> Webhook:
    """One endpoint. A token without the scopes `write` and `admin` is shown the host instead of the URL."""
    return _as_seen_by(caller, service.webhooks.get(caller.tenant, webhook_id))


@router.patch("/v1/webhooks/{webhook_id}", operation_id="updateWebhook", responses=responses(401, 403, 404, 413, 422))
def change(
    service: Service, caller: Writer, by: Acting, webhook_id: WebhookId, request: Sent[WebhookChange]
) -> Webhook:
    """Change an endpoint; what is not given stays. `enabled` ends or lifts a standstill, also one after 410 Gone."""
    url = None if request.url is None else _checked(service, request.url)
    return service.webhooks.change(caller.tenant, webhook_id, request, url, by=by)


@router.delete(
    "/v1/webhooks/{webhook_id}",
    operation_id="deleteWebhook",
    status_code=204,
    responses=responses(401, 403, 404, 422),
)
def delete(service: Service, caller: Writer, by: Acting, webhook_id: WebhookId) -> None:
    """Delete an endpoint with its deliveries, those that wait included."""
    service.webhooks.delete(caller.tenant, webhook_id, by=by)


@router.post(
    "/v1/webhooks/{webhook_id}/rotate",
    operation_id="rotateWebhookSecret",
    responses=responses(401, 403, 404, 413, 422),
)
def rotate(
    service: Service, caller: Writer, by: Acting, webhook_id: WebhookId, request: Sent[RotateRequest]
) -> WebhookWithSecret:
    """Give the endpoint a new secret, shown this once. Until the overlap ends messages carry two signatures."""
    overlap = timedelta(seconds=request.overlap_seconds)
    return service.webhooks.rotate(caller.tenant, webhook_id, overlap, by=by)


@router.post(
    "/v1/webhooks/{webhook_id}/test",
    operation_id="testWebhook",
    status_code=202,
    responses=responses(401, 403, 404, 409, 422),
)
def test(service: Service, caller: Writer, by: Acting, webhook_id: WebhookId) -> Delivery:
    """Send the endpoint a message of the type `webhook.test`; the deliveries say what became of it."""
    return service.webhooks.test(caller.tenant, webhook_id, by=by)


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries",
    operation_id="listWebhookDeliveries",
    responses=responses(401, 403, 404, 422),
)
def deliveries(
    service: Service,
    caller: Reader,
    webhook_id: WebhookId,
    *,
    state: DeliveryState | None = None,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> DeliveryPage:
    """List what was sent to the endpoint, newest first, with each attempt. Ended ones are kept for 30 days."""
    return service.webhooks.deliveries(caller.tenant, webhook_id, state=state, cursor=cursor, limit=limit)


@router.post(
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    operation_id="redeliverWebhook",
    status_code=202,
    responses=responses(401, 403, 404, 409, 422),
)
def redeliver(service: Service, caller: Writer, by: Acting, webhook_id: WebhookId, delivery_id: DeliveryId) -> Delivery:
    """Send a message again under the same `webhook-id`, delivered or not; one that waits for its turn is sent now."""
    return service.webhooks.redeliver(caller.tenant, webhook_id, delivery_id, by=by)


def _as_seen_by(caller: Identity, webhook: Webhook) -> Webhook:
    return webhook if caller.scopes & {"write", "admin"} else webhook.masked()


def _checked(service: Service, url: str) -> str:
    """The URL in normal form.

    Raises:
        WebhookUrlRefused: nothing may be sent there.
    """
    return parse_target(url, Allowed.parse(service.settings.webhook_allow)).url
