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
from tests.integration.database.harness import Service
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
