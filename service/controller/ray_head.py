"""Whether a Ray cluster's head takes connections: asked before Ray is, which would try for 14 minutes in silence."""

import socket
import time
from collections.abc import Callable

CONNECT_SECONDS = 5.0
ASK_AGAIN_SECONDS = 1.0


def unreachable(address: str) -> str | None:
    """Why nothing takes a connection at `host:port`; None where something does."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            return None
    except (OSError, ValueError) as error:
        return str(error)


def await_head(
    address: str, seconds: float, check: Callable[[], None], waiting: Callable[[float, str], None]
) -> str | None:
    """Ask until something takes a connection at `host:port`.

    Args:
        address: of the head.
        seconds: after which to give up.
        check: called before each further try; may raise to end the wait.
        waiting: told before each further try for how long it was asked, in seconds, and why it does not answer.

    Returns:
        None once it answers; why it does not when the time is over.
    """
    began = time.monotonic()
    while (reason := unreachable(address)) is not None:
        waited = time.monotonic() - began
        if waited >= seconds:
            return reason
        check()
        waiting(waited, reason)
        time.sleep(min(ASK_AGAIN_SECONDS, seconds - waited))
    return None
