"""Whether a Ray cluster's head takes connections: asked before Ray is, which would try for 14 minutes in silence.

`python -m peelbound.service.controller.ray_head` waits for the head of the settings: the image asks before `ray start`.
"""

import logging
import socket
import sys
import time
from collections.abc import Callable

from peelbound.service.starting import settings_or_exit

CONNECT_SECONDS = 5.0
ASK_AGAIN_SECONDS = 1.0

log = logging.getLogger(__name__)


def unreachable(address: str) -> str | None:
    """Why nothing takes a connection at `host:port`; None where something does."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            return None
    except (OSError, ValueError) as error:
        return str(error)


def await_head(address: str, seconds: float, check: Callable[[], None] = lambda: None) -> str | None:
    """Ask until something takes a connection at `host:port`, and say so in the log meanwhile.

    Args:
        address: of the head.
        seconds: after which to give up.
        check: called before each further try; may raise to end the wait.

    Returns:
        None once it answers; that it does not, and why, when the time is over.
    """
    began = time.monotonic()
    while (reason := unreachable(address)) is not None:
        waited = time.monotonic() - began
        if waited >= seconds:
            return f"No Ray cluster answers at {address}: {reason}. It was asked for {seconds:g} s."
        check()
        log.warning("waiting for the Ray cluster at %s, %.0f s of at most %g s: %s", address, waited, seconds, reason)
        time.sleep(min(ASK_AGAIN_SECONDS, seconds - waited))
    return None


def main() -> int:
    """Wait for the head that the settings name, where they name one."""
    settings = settings_or_exit()
    if settings.ray_address in (None, "auto"):
        return 0
    failure = await_head(settings.ray_address, settings.worker_start_seconds)
    if failure is None:
        return 0
    log.error("%s", failure)
    return 3


if __name__ == "__main__":
    sys.exit(main())
