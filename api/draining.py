"""The end of a replica: it says so first, lets its streams end where they can be resumed, and only then stops."""

import logging
import signal
import threading
from types import FrameType

import uvicorn

log = logging.getLogger(__name__)


class Draining:
    """Whether this replica is about to end. Then readiness says no, streams end and polls answer as it stands."""

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        """From now on."""
        self.begun = True


class Server(uvicorn.Server):
    """A server that goes on answering for a while after the first SIGTERM, so that nobody is sent to a closed port.

    Whoever balances load looks at `/readyz` every few seconds and needs that long to send requests elsewhere. A second
    signal, or SIGINT, ends it at once.

    Args:
        config: of the server.
        draining: told of the signal.
        seconds: how long it goes on.
    """

    def __init__(self, config: uvicorn.Config, draining: Draining, seconds: float) -> None:
        super().__init__(config)
        self._draining, self._seconds = draining, seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or end."""
        if sig != signal.SIGTERM or self._draining.begun:
            super().handle_exit(sig, frame)
            return
        self._draining.begin()
        log.info("SIGTERM: answering for %g s more", self._seconds)
        end = threading.Timer(self._seconds, self._end)
        end.daemon = True
        end.start()

    def _end(self) -> None:
        self.should_exit = True
