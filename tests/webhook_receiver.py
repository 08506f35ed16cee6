"""A receiver of webhooks: a real HTTP or HTTPS server on loopback that answers as its path says."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What the server does and what it got.

    Attributes:
        answers: statuses to answer with, one after the other; the last one for ever.
        retry_after: what the answers say in `Retry-After`, if anything.
        received: the requests so far.
        names: what TLS clients said that they want to speak with.
        stop: ends answers that would go on for ever.
    """

    port: int = 0
    answers: list[int] = field(default_factory=lambda: [204])
    retry_after: str | None = None
    received: list[Received] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    sent_bytes: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Of the answers as listed."""
        return f"http://127.0.0.1:{self.port}/hook"

    def status(self) -> int:
        """The next status."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            with suppress(OSError):
                getattr(self, f"answer_{self.path.strip('/')}", self.answer_hook)()

        def answer_hook(self) -> None:
            self.send_response(receiver.status())
            if receiver.retry_after is not None:
                self.send_header("Retry-After", receiver.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer_redirect(self) -> None:
            self.send_response(307)
            self.send_header("Location", f"http://127.0.0.1:{receiver.port}/hook")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer_endless(self) -> None:
            """A body that never ends."""
            self.send_response(200)
            self.end_headers()
            while not receiver.stop.is_set():
                self.wfile.write(b"x" * 65536)
                receiver.sent_bytes += 65536

        def answer_silent(self) -> None:
            """No answer at all."""
            receiver.stop.wait()

        def answer_dripping(self) -> None:
            """A header that comes a byte at a time, each well within any time limit of its own."""
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not receiver.stop.wait(0.05):
                self.wfile.write(b"x")

        def answer_headers(self) -> None:
            """Headers that never end."""
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not receiver.stop.is_set():
                self.wfile.write(b"X-More: " + b"x" * 4096 + b"\r\n")

        def answer_noise(self) -> None:
            """Not HTTP."""
            self.wfile.write(b"\x00\x01\x02 hello\r\n\r\n")
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver; with `tls` it speaks HTTPS."""
    receiver = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(receiver))
    server.daemon_threads = True
    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: receiver.names.append(name)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


def certificate_for(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context that trust each other by a certificate for this one host name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cadata=certificate.public_bytes(serialization.Encoding.PEM).decode())
    return server, client
