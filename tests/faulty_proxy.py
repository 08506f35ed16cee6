"""A TCP proxy that breaks connections on purpose, to stand between a client and a real server."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from socketserver import BaseRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit


class Fault(Enum):
    """What a store does to its clients when it is unwell."""

    ERROR = "answers 500"
    UNAVAILABLE = "answers 503"
    SILENT = "does not answer"
    RESET = "resets connections in the middle of answers"
    CUT = "cuts answers short"
    SLOW = "is slow"


_ANSWERS = {
    Fault.ERROR: b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    Fault.UNAVAILABLE: b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}
_SILENT_SECONDS = 2.0
"""How long a silent store keeps a client waiting before it hangs up; clients wait longer than tests can."""
_SLOW_SECONDS = 0.05
"""How long a slow store holds each piece of an answer back."""


@dataclass
class FaultyProxy:
    """What breaks, and what broke so far.

    Attributes:
        upstream: host and port of the real server.
        cut_after: answers are cut off after this many bytes of a connection …
        cuts: … this many times in all.
        hold_after: requests are passed on up to this many bytes of all connections, then held back for good.
        endpoint_url: where the proxy listens.
        faults: how many answers were cut so far.
        held: set once a request is held back.
        heads_only: whether answers end after their first piece, which holds the head.
        fault: what happens to every connection that is used from now on; None: nothing.
        struck: how many connections met such a fault.
    """

    upstream: tuple[str, int]
    cut_after: int = 0
    cuts: int = 0
    hold_after: int | None = None
    endpoint_url: str = ""
    faults: int = 0
    held: threading.Event = field(default_factory=threading.Event)
    heads_only: bool = False
    fault: Fault | None = None
    struck: int = 0
    _connections: set[socket.socket] = field(default_factory=set)
    _sent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def may_send(self, count: int) -> bool:
        """Whether `count` more bytes of requests may pass."""
        with self._lock:
            self._sent += count
            if self.hold_after is not None and self._sent > self.hold_after:
                self.held.set()
            return not self.held.is_set()

    def strikes(self) -> Fault | None:
        """The fault that a connection meets now; it counts."""
        fault = self.fault
        if fault is not None:
            with self._lock:
                self.struck += 1
        return fault

    @contextmanager
    def connected(self, server: socket.socket) -> Iterator[None]:
        """Meanwhile this connection to the real server can be hung up."""
        with self._lock:
            self._connections.add(server)
        try:
            yield
        finally:
            with self._lock:
                self._connections.discard(server)

    def hang_up(self) -> None:
        """End every connection that there is."""
        with self._lock:
            for server in self._connections:
                with suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)

    def cuts_now(self, passed: int) -> bool:
        """Whether an answer of which `passed` bytes went through is to be cut here."""
        with self._lock:
            if passed <= self.cut_after or self.faults >= self.cuts:
                return False
            self.faults += 1
            return True


@contextmanager
def faulty_proxy(
    endpoint_url: str, *, cut_after: int = 0, cuts: int = 0, hold_after: int | None = None
) -> Iterator[FaultyProxy]:
    """Run a proxy in front of `endpoint_url`."""
    parts = urlsplit(endpoint_url)
    proxy = FaultyProxy((parts.hostname or "", parts.port or 0), cut_after, cuts, hold_after)
    closing = threading.Event()

    class Handler(BaseRequestHandler):
        request: socket.socket

        def handle(self) -> None:
            with socket.create_connection(proxy.upstream) as server, proxy.connected(server):
                requests = threading.Thread(target=pass_requests, args=(self.request, server), daemon=True)
                requests.start()
                pass_answers(server, self.request)
                for each in (server, self.request):
                    with suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
                requests.join()

    def pass_requests(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                fault = proxy.strikes()
                if fault is Fault.SILENT:
                    closing.wait(_SILENT_SECONDS)
                    server.shutdown(socket.SHUT_RDWR)
                    return
                if fault in _ANSWERS:
                    client.sendall(_ANSWERS[fault])
                    server.shutdown(socket.SHUT_RDWR)
                    return
                if not proxy.may_send(len(data)):
                    closing.wait()
                    return
                server.sendall(data)

    def pass_answers(server: socket.socket, client: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while data := server.recv(65536):
                passed += len(data)
                if proxy.cuts_now(passed):
                    return
                fault = proxy.fault
                if fault is Fault.SLOW:
                    closing.wait(_SLOW_SECONDS)
                elif fault in (Fault.CUT, Fault.RESET):
                    client.sendall(data[: len(data) // 2])
                    if fault is Fault.RESET:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        client.shutdown(socket.SHUT_RD)  # or no reset is sent before who reads from it has ended
                        client.close()
                    return
                client.sendall(data)
                if proxy.heads_only:
                    return

    class Server(ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as listener:
        proxy.endpoint_url = f"http://127.0.0.1:{listener.server_address[1]}"
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield proxy
        finally:
            closing.set()
            listener.shutdown()
