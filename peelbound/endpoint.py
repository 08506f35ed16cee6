"""Which service to talk to, and with which token."""

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx2

from peelbound.errors import EndpointInvalid, ServiceNotFound
from peelbound.local import awaited_url, default_state_dir, read_token, running_url


@dataclass(frozen=True)
class Endpoint:
    """A service's address and the token to bring."""

    url: str
    token: str | None

    @property
    def headers(self) -> dict[str, str]:
        """What each request carries."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    @property
    def on_loopback(self) -> bool:
        """Whether it is this machine's alone: no proxy can lead there, and none is to see the token."""
        return is_loopback(httpx2.URL(self.url).host)


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, with or without brackets, is this machine and nothing else can reach it."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def find_endpoint(
    url: str | None = None, token: str | None = None, state_dir: Path | None = None, *, patient: bool = True
) -> Endpoint:
    """The service given, else the one in `PEELBOUND_URL`, else the embedded one that runs on the state directory.

    The token is the one given, else `PEELBOUND_TOKEN`. The token file of the state directory is read for one address
    only: that of the service which holds the directory now. Whatever else listens on loopback may be anybody's. Where
    address and token are both known, the state directory is not looked at.

    Raises:
        EndpointInvalid: the address is no URL or holds a password, the token holds what no header may, or the state
            directory is no path.
        ServiceNotFound: none of the three.
        ServiceStarting: the embedded one is about to run; if we are patient, a few seconds were waited for it.
    """
    address = url or os.environ.get("PEELBOUND_URL")
    token = _clean(token or os.environ.get("PEELBOUND_TOKEN") or "")
    if address and token:
        return Endpoint(_base(address), token)
    state_dir = state_dir or default_state_dir()
    running = running_url(state_dir) if address else awaited_url(state_dir, patient=patient)
    address = address or running
    if address is None:
        raise ServiceNotFound(f"PEELBOUND_URL is not set and no service runs on {state_dir}; start one: peelbound up")
    address = _base(address)
    if token is None and address == running:
        token = read_token(state_dir)
    return Endpoint(address, token)


def _base(address: str) -> str:
    """The address without a slash at its end; paths are put after it."""
    address = address.strip().rstrip("/")
    try:
        url = httpx2.URL(address)
        url.raw_host.decode("ascii").encode("idna")  # refused only when a connection is made
    except (httpx2.InvalidURL, UnicodeError) as error:
        why = "" if "@" in address else f": {error}"  # it may quote a part of a password
        raise EndpointInvalid(f"The service's address is no URL; it is the one given, or PEELBOUND_URL{why}") from None
    if url.userinfo:  # the HTTP library would send it in the token's place
        raise EndpointInvalid(
            "The service's address, the one given or PEELBOUND_URL, holds a name or a password before its host. "
            "Services take tokens: PEELBOUND_TOKEN."
        )
    return address


def _clean(token: str) -> str | None:
    """A token as a header may carry it; None for an empty one.

    Secrets that come out of files end in a newline, and the HTTP library quotes a header that it refuses: whatever it
    would refuse must not get that far.
    """
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise EndpointInvalid("The token holds more than printable ASCII; it is the one given, or PEELBOUND_TOKEN.")
    return token or None
