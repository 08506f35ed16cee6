"""Who sends the messages: threads beside a controller's work, on any number of controllers.

Each thread takes one message at a time under a lease and sends it, so no message is sent by two at once. Controllers do
this and not API replicas, because these answer strangers and hold no work of their own.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from standardwebhooks import Webhook
from ulid import ULID

from peelbound import __version__
from peelbound.service.database.errors import DatabaseUnavailable
from peelbound.service.database.outbox import Outbox, Parcel
from peelbound.service.settings import Settings
from peelbound.service.webhooks.sending import Answer, Sender
from peelbound.service.webhooks.targets import Allowed

log = logging.getLogger(__name__)

THREADS = 4
IDLE_SECONDS = 1.0
FORGET_SECONDS = 3600.0
RESOLVING_SECONDS = 60.0
"""What a lease leaves, beside the call itself, for a resolver that is slow and a database that is away."""


class Deliverer:
    """Sends what is due."""

    def __init__(self, outbox: Outbox, sender: Sender, owner: str) -> None:
        """Bind.

        Args:
            outbox: the database.
            sender: makes the calls.
            owner: this deliverer's name.
        """
        self._outbox, self._sender, self._owner = outbox, sender, owner

    def deliver_one(self) -> bool:
        """Send the message whose turn it is; False when none is due."""
        parcel = self._outbox.claim(self._owner)
        if parcel is None:
            return False
        try:
            answer = self._sender.post(parcel.url, signed_headers(parcel), parcel.body.encode())
        except Exception:  # it counts as an attempt that failed, or the message would come back for ever
            log.exception("webhook %s delivery %s: an error that was not expected", parcel.webhook_id, parcel.id)
            answer = Answer(None, "The service met an error that it did not expect.")
        settled = self._outbox.settle(parcel, answer.status, answer.error, answer.seconds, answer.asked_seconds)
        log.info(
            "webhook %s delivery %s attempt %d: %s%s",
            parcel.webhook_id,
            parcel.id,
            parcel.attempt,
            answer.error or "delivered",
            "" if settled else " (the lease was lost)",
        )
        return True

    def run(self, stop: threading.Event) -> None:
        """Send until told to stop; a database that is away is waited for."""
        forgotten_at = -FORGET_SECONDS
        while not stop.is_set():
            try:
                if self.deliver_one():
                    continue
                if time.monotonic() - forgotten_at >= FORGET_SECONDS:
                    self._outbox.forget()
                    forgotten_at = time.monotonic()
            except DatabaseUnavailable as error:
                log.warning("webhooks wait for the database: %s", error)
            except Exception:  # a thread that ended unheard would leave messages unsent from here on
                log.exception("webhooks: an error that was not expected")
            stop.wait(IDLE_SECONDS)


def signed_headers(parcel: Parcel) -> dict[str, str]:
    """The headers of a message by Standard Webhooks: its id, when it is sent, and a signature by each secret."""
    signatures = [Webhook(secret).sign(parcel.id, parcel.at, parcel.body) for secret in parcel.secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": f"peelbound/{__version__}",
        "webhook-id": parcel.id,
        "webhook-timestamp": str(int(parcel.at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


@contextmanager
def delivering(settings: Settings, engine: Engine) -> Iterator[None]:
    """Send messages in the background until the context is left; what is being sent then is sent again by another."""
    stop = threading.Event()
    sender = Sender(Allowed.parse(settings.webhook_allow), settings.webhook_seconds)
    outbox = Outbox(engine, lease_seconds=settings.webhook_seconds + RESOLVING_SECONDS)
    owner = f"{socket.gethostname()}-{os.getpid()}-{ULID()}"
    threads = [
        threading.Thread(target=Deliverer(outbox, sender, owner).run, args=(stop,), name=f"webhooks-{n}", daemon=True)
        for n in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(IDLE_SECONDS)
