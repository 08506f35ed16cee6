"""Which service to talk to, and with which token."""

import os
from dataclasses import dataclass
from pathlib import Path

from peelbound.errors import ServiceNotFound
from peelbound.local import default_state_dir, read_token, running_url


@dataclass(frozen=True)
class Endpoint:
    """A service's address and the token to bring."""

    url: str
    token: str | None


def find_endpoint(url: str | None = None, token: str | None = None, state_dir: Path | None = None) -> Endpoint:
    """The service given, else the one in `PEELBOUND_URL`, else the embedded one that runs on the state directory.

    The token is the one given, else `PEELBOUND_TOKEN`. The token file of the state directory is read for one address
    only: that of the service which holds the directory now. Whatever else listens on loopback may be anybody's. Where
    address and token are both known, the state directory is not looked at.

    Raises:
        ServiceNotFound: none of the three.
    """
    address = url or os.environ.get("PEELBOUND_URL")
    token = token or os.environ.get("PEELBOUND_TOKEN")
    if address and token:
        return Endpoint(address.rstrip("/"), token)
    state_dir = state_dir or default_state_dir()
    running = running_url(state_dir)
    address = address or running
    if address is None:
        raise ServiceNotFound(f"PEELBOUND_URL is not set and no service runs on {state_dir}; start one: peelbound up")
    address = address.rstrip("/")
    if not token and address == running:
        token = read_token(state_dir)
    return Endpoint(address, token or None)
