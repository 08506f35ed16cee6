"""One call of a webhook: connect to an address that was checked, post, read the status, and never more than bounds.

The name is resolved once, here, and the connection goes to the address that was looked at, so a name whose meaning
changes between a check and a connection (DNS rebinding) gains nothing. TLS and the `Host` header still carry the name.
httpcore2 itself is used, a layer below httpx2: it follows no redirects, knows no proxies from the environment, keeps no
cookies, and decodes no bodies.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address

import httpcore2

from peelbound.service.webhooks.retry_after import seconds_asked
from peelbound.service.webhooks.targets import Address, Allowed, Target, WebhookUrlRefused, parse_target

MOST_BODY_BYTES = 64 << 10
"""As much of an answer's body is read; what it says does not matter, only that the receiver may finish saying it."""
_LONGEST_ERROR = 200
_ASK_FOR_PATIENCE = (429, 503)

Resolver = Callable[[str, int], Sequence[str]]
"""The addresses of a host, for a port."""


def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host as this machine resolves it, in the order in which they are to be tried.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Answer:
    """What came of a call.

    Attributes:
        status: the answer's HTTP status; None when there was no answer.
        error: why the call counts as failed; None when it was delivered.
        asked_seconds: how long the receiver asks not to be called again (`Retry-After` of a 429 or 503), if it does.
        seconds: how long it took from the first connection that was tried; 0 where none was. The look-up of the name is
            left out: its time tells whether an internal name exists.
    """

    status: int | None
    error: str | None
    asked_seconds: float | None = None
    seconds: float = 0.0


class Refused(Exception):
    """The host has no address that may be called."""


@dataclass(frozen=True)
class Sender:
    """Posts messages.

    Attributes:
        allowed: what may be called besides public addresses by https.
        seconds: the longest that a call may take in all, once the host's name is resolved.
        resolver: finds a host's addresses.
        tls: verifies servers; None: by the system's certificate authorities.
        clock: the time by which dates in answers are counted.
    """

    allowed: Allowed
    seconds: float
    resolver: Resolver = resolve
    tls: ssl.SSLContext | None = None
    clock: Callable[[], datetime] = _now

    def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Post `body`; whatever goes wrong is part of the answer."""
        try:
            target = parse_target(url, self.allowed)  # the settings may have changed since the endpoint was made
        except WebhookUrlRefused as error:
            return Answer(None, error.detail)
        network = _CheckedNetwork(target, self.allowed, self.resolver, self.seconds)
        answer = self._answer(network, target, headers, body)
        return answer if network.began is None else replace(answer, seconds=time.monotonic() - network.began)

    def _answer(self, network: "_CheckedNetwork", target: Target, headers: dict[str, str], body: bytes) -> Answer:
        try:
            status, retry_after = self._post(network, target, headers, body)
        except Refused as error:
            return Answer(None, str(error))
        except httpcore2.TimeoutException:
            return Answer(None, f"No answer within {self.seconds:g} s.")
        except (httpcore2.NetworkError, httpcore2.ProtocolError, ssl.SSLError) as error:
            return Answer(None, f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])
        if 200 <= status < 300:
            return Answer(status, None)
        why = "A redirect, which is not followed." if 300 <= status < 400 else f"Status {status}."
        asks = status in _ASK_FOR_PATIENCE and retry_after is not None
        return Answer(status, why, seconds_asked(str(retry_after), self.clock()) if asks else None)

    def _post(
        self, network: "_CheckedNetwork", target: Target, headers: dict[str, str], body: bytes
    ) -> tuple[int, str | None]:
        """The answer's status, and its `Retry-After` as it came."""
        tls = ssl.create_default_context() if self.tls is None else self.tls
        with (
            httpcore2.ConnectionPool(ssl_context=tls, network_backend=network) as pool,
            pool.stream(
                "POST",
                target.url,
                headers=[("Host", _authority(target)), ("Connection", "close"), *headers.items()],
                content=body,
            ) as response,
        ):
            self._drain(response)
            return response.status, _retry_after(response)

    @staticmethod
    def _drain(response: httpcore2.Response) -> None:
        taken = 0
        try:
            for chunk in response.iter_stream():
                taken += len(chunk)
                if taken > MOST_BODY_BYTES:
                    return
        except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError):
            return  # the status has been read, and it alone says what the receiver made of the message


def _retry_after(response: httpcore2.Response) -> str | None:
    values = [value for name, value in response.headers if name.lower() == b"retry-after"]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _authority(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return host if target.port == {"http": 80, "https": 443}[target.scheme] else f"{host}:{target.port}"


class _CheckedNetwork(httpcore2.NetworkBackend):
    """Connects to the first address of the host that may be called and can be reached; one deadline holds for all.

    Attributes:
        began: when (`time.monotonic`) the first connection was tried, if any was.
    """

    began: float | None = None

    def __init__(self, target: Target, allowed: Allowed, resolver: Resolver, seconds: float) -> None:
        self._target, self._allowed, self._resolver, self._seconds = target, allowed, resolver, seconds
        self._backend = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - the target's, which was checked
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline holds
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Resolve, check, connect."""
        addresses = self._permitted()
        if not addresses:
            raise Refused("The host has no address that may be called.")
        self.began = time.monotonic()
        deadline = self.began + self._seconds
        for number, address in enumerate(addresses, 1):
            try:
                stream = self._backend.connect_tcp(
                    str(address), port, _left(deadline), local_address, socket_options or ()
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(addresses) or time.monotonic() >= deadline:
                    raise
            else:
                return _BoundedStream(stream, deadline)
        raise AssertionError("the last address was reached, or its error raised")

    def _permitted(self) -> list[Address]:
        try:
            found = [ip_address(text) for text in self._resolver(self._target.host, self._target.port)]
        except (OSError, UnicodeError, ValueError):
            found = []
        # One message for both: whether an internal name exists is none of the tenant's business.
        return [address for address in found if self._allowed.reaches(self._target, address)]


class _BoundedStream(httpcore2.NetworkStream):
    """A stream all of whose reads and writes together end at the deadline, however slowly the other side drips."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline holds
        """Read some bytes."""
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the deadline holds
        """Write all bytes."""
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        """Close."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the deadline holds
    ) -> httpcore2.NetworkStream:
        """Speak TLS from here on."""
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _BoundedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> object:
        """What the stream knows of itself."""
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    """Seconds until the deadline.

    Raises:
        ReadTimeout: it has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("the time is over")
    return left
