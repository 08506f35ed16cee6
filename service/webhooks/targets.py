"""Which places a webhook may reach: public addresses by https, and what the settings allow besides.

A URL is checked as it is written when an endpoint is made, and the address that its host resolves to each time that a
message is sent, on the very address that is then connected to. So it does not matter what the name meant before.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pydantic_core import Url, ValidationError

from peelbound.workers.errors import UserError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last four bytes are the IPv4 address that is reached."""
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
"""RFC 8215: where the IPv4 address lies depends on the prefix that a network uses, so none of these is public."""

_NOT_THE_INTERNETS = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments: Python counts some of them as global
    IPv4Network("168.63.129.16/32"),  # a public address at which every Azure machine finds its host
)


class WebhookUrlRefused(UserError):
    """The URL is not one that webhooks may be sent to."""

    slug = "webhook-url-refused"
    title = "The URL is not one that webhooks may be sent to"


@dataclass(frozen=True)
class Target:
    """Where to connect to.

    Attributes:
        url: in the normal form that is kept and called.
        scheme: http or https.
        host: a name, or an address without brackets.
        port: of the server.
    """

    url: str
    scheme: str
    host: str
    port: int


@dataclass(frozen=True)
class Allowed:
    """What the settings allow besides public addresses by https.

    Attributes:
        hosts: names (lower case) that may be called whatever their addresses are, also by http.
        networks: addresses that may be called, also by http.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> "Allowed":
        """From the entries of the setting: `10.1.0.0/16`, `192.168.1.7`, `fd00::/8`, `hooks.internal`.

        Raises:
            ValueError: an entry is neither an address, nor a network, nor a host's name.
        """
        hosts, networks = set(), []
        for entry in entries:
            try:
                networks.append(ip_network(entry, strict=False))
            except ValueError:
                name = entry.lower()
                if not _HOST_NAME.fullmatch(name) or "/" in name:
                    raise ValueError(f"{entry!r} is neither an address, a network nor a host's name") from None
                hosts.add(name)
        return cls(frozenset(hosts), tuple(networks))

    def reaches(self, target: Target, address: Address) -> bool:
        """Whether a message for this target may be sent to this address of its host."""
        if target.host in self.hosts or any(address in network for network in self.networks):
            return True
        return target.scheme == "https" and is_public(address)


def is_public(address: Address) -> bool:
    """Whether the address is somebody's on the internet: not private, loopback, link-local, shared, multicast or
    reserved, nor an IPv6 address that stands for such an IPv4 address."""
    if isinstance(address, IPv6Address):
        if address in _LOCAL_NAT64:
            return False
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address.scope_id is not None or address.is_site_local:
            return False
    if any(address in network for network in _NOT_THE_INTERNETS):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this IPv6 address may end at, or None."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if int(address) >> 32 == 0 or address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def parse_target(url: str, allowed: Allowed) -> Target:
    """Check a URL as it is written, without asking who its host is.

    Raises:
        WebhookUrlRefused: it is no http or https URL, carries a user name or a fragment, is http where only https will
            do, or names an address that may not be called.
    """
    try:
        parsed = Url(url)
    except ValidationError as error:
        raise _refused("The URL cannot be parsed.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.port is None:
        raise _refused("The URL is not http or https.")
    if parsed.username or parsed.password:
        raise _refused("The URL carries a user name or password.")
    if parsed.fragment is not None:
        raise _refused("The URL carries a fragment, which is never sent.")
    # A trailing dot names the same host and would slip past comparisons.
    host = parsed.host.strip("[]").rstrip(".").lower()
    target = Target(str(parsed), parsed.scheme, host, parsed.port)
    try:
        address = ip_address(host)
    except ValueError:
        if not _HOST_NAME.fullmatch(host):
            raise _refused("The URL's host is not a name.") from None
        # What an allowed network's names resolve to is seen when a message is sent.
        if target.scheme == "http" and host not in allowed.hosts and not allowed.networks:
            raise _refused("The URL is not https.") from None
    else:
        if not allowed.reaches(target, address):
            raise _refused("The URL is not https, or its address is not a public one.")
    return target


def _refused(detail: str) -> WebhookUrlRefused:
    return WebhookUrlRefused(
        detail,
        remedy="Give an https URL of a public host, or have the host or its network added to PEELBOUND_WEBHOOK_ALLOW.",
        pointer="/url",
    )
