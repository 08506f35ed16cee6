"""Webhooks on each of the databases, with a clock and a chance that the test decides, and a real receiver."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Engine

from peelbound.service.database.outbox import Outbox
from peelbound.service.database.webhooks import Webhooks
from peelbound.service.schemas.webhook import Delivery, WebhookRequest, WebhookWithSecret
from peelbound.service.webhooks.deliverer import Deliverer
from peelbound.service.webhooks.sending import Sender
from peelbound.service.webhooks.targets import Allowed
from tests.integration.database.harness import MAX_ATTEMPTS, PROBLEM, SUMMARY, Service
from tests.webhook_receiver import Receiver, receiving

LEASE_SECONDS = 60.0
TENANT = "acme"


@dataclass
class Hooks:
    """Audits, webhooks and a deliverer on one database and one clock."""

    engine: Engine
    receiver: Receiver
    service: Service = field(init=False)

    def __post_init__(self) -> None:
        self.service = Service(self.engine)
        self.webhooks = Webhooks(self.engine, clock=self.service.clock)
        self.outbox = Outbox(self.engine, lease_seconds=LEASE_SECONDS, clock=self.service.clock, chance=lambda: 0.5)
        self.deliverer = Deliverer(self.outbox, Sender(Allowed.parse(["127.0.0.0/8"]), 10), "one")

    def hook(self, tenant: str = TENANT, **fields: object) -> WebhookWithSecret:
        """An endpoint at the receiver."""
        request = WebhookRequest.model_validate({"url": self.receiver.url} | fields)
        return self.webhooks.create(tenant, request, request.url)

    def deliver_all(self) -> int:
        """Send all that is due; how many there were."""
        count = 0
        while self.deliverer.deliver_one():
            count += 1
        return count

    def deliveries(self, webhook: WebhookWithSecret, tenant: str = TENANT) -> list[Delivery]:
        return self.webhooks.deliveries(tenant, webhook.id).items

    def only(self, webhook: WebhookWithSecret, tenant: str = TENANT) -> Delivery:
        (delivery,) = self.deliveries(webhook, tenant)
        return delivery


@pytest.fixture
def hooks(engine: Engine) -> Iterator[Hooks]:
    with receiving() as receiver:
        yield Hooks(engine, receiver)


def end(hooks: Hooks, how: str, tenant: str = TENANT) -> str:
    """Submit an audit and bring it to its end in one of the ways there are; its id."""
    audit_id = hooks.service.submit(tenant, run="r", step=7, checkpoint="s3://secret-bucket/ckpt")
    leases = hooks.service.leases
    if how == "cancelled while queued":
        hooks.service.audits.cancel(tenant, audit_id)
        return audit_id
    claim = hooks.service.claim()
    match how:
        case "succeeded":
            assert leases.succeed(claim, "manifest", SUMMARY)
        case "failed":
            assert leases.fail(claim, PROBLEM)
        case "failed after retries":
            for _ in range(MAX_ATTEMPTS - 1):
                leases.retry(claim, PROBLEM, 0)
                claim = hooks.service.claim()
            leases.retry(claim, PROBLEM, 0)
        case "failed as its controllers were lost":
            for _ in range(MAX_ATTEMPTS - 1):
                hooks.service.expire()
                hooks.service.claim()
            hooks.service.expire()
            assert leases.claim("last") is None
        case "cancelled":
            hooks.service.audits.cancel(tenant, audit_id)
            assert leases.cancelled(claim)
        case "cancelled as its controller was lost":
            hooks.service.audits.cancel(tenant, audit_id)
            hooks.service.expire()
            assert leases.claim("other") is None
    return audit_id
