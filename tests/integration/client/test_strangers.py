"""What answers in the service's place: proxies that redirect, and pages to sign in on."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from peelbound.aio import AsyncClient
from peelbound.client import Client
from peelbound.errors import ProblemError
from tests.integration.client.harness import REQUEST, Service


@dataclass
class Stranger:
    """A web server that redirects, or answers every GET and POST with a page.

    Attributes:
        location: where it redirects to, with the path asked for; None: nowhere.
        status: of the redirect.
        asked: methods and paths so far.
    """

    url: str = ""
    location: str | None = None
    status: int = 302
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    found = Stranger()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found.asked.append((self.command, self.path))
            page = b"<html>Sign in</html>"
            self.send_response(200 if found.location is None else found.status)
            if found.location is not None:
                self.send_header("Location", found.location + self.path)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - the names are the library's

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield found
        server.shutdown()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_only_a_get_is_redirected(service: Service, stranger: Stranger, status: int) -> None:
    stranger.location, stranger.status = service.url, status
    with Client(service.url, service.token) as direct, Client(stranger.url, service.token) as client:
        with pytest.raises(ProblemError, match=f"sends a POST on to {service.url};.*PEELBOUND_URL") as refused:
            client.submit(REQUEST)
        assert refused.value.problem.slug == "not-a-problem"
        with pytest.raises(ProblemError, match="sends a DELETE on"):
            client.delete("x")
        assert direct.page().items == []
    assert [method for method, _ in stranger.asked] == ["POST", "DELETE"]


def test_a_get_and_a_stream_are_redirected(service: Service, stranger: Stranger) -> None:
    stranger.location = service.url
    with Client(stranger.url, service.token) as client:
        for ask in (lambda: client.get("x"), lambda: next(client.events("x"))):
            with pytest.raises(ProblemError) as refused:
                ask()
            assert refused.value.problem.slug == "unauthenticated", "a token is not for another address"


def test_a_page_to_sign_in_on_is_no_answer(stranger: Stranger) -> None:
    with Client(stranger.url, "theirs") as client:
        for ask in (
            lambda: client.submit(REQUEST),
            lambda: client.get("x"),
            lambda: client.report("x"),
            lambda: next(client.events("x")),
            lambda: client.wait("x"),
        ):
            with pytest.raises(ProblemError, match="answered 200 OK with text/html") as refused:
                ask()
            assert refused.value.problem.slug == "not-a-problem"


def test_the_asynchronous_client_takes_strangers_as_the_other_does(service: Service, stranger: Stranger) -> None:
    async def story() -> None:
        async with AsyncClient(stranger.url, "theirs") as client:
            for ask in (client.get("x"), client.wait("x"), anext(client.events("x"))):
                with pytest.raises(ProblemError, match="answered 200 OK with text/html"):
                    await ask
            stranger.location = service.url
            with pytest.raises(ProblemError, match="sends a POST on"):
                await client.submit(REQUEST)

    asyncio.run(story())


def test_no_proxy_is_between_a_client_and_its_own_machine(
    service: Service, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, stranger.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def story() -> None:
        async with AsyncClient(service.url, service.token) as client:
            assert (await client.page()).items == []
        async with AsyncClient("http://peelbound.invalid", "theirs") as client:
            with pytest.raises(ProblemError, match="text/html"):
                await client.page()

    with Client(service.url, service.token) as client:
        assert client.page().items == []
    with Client("http://peelbound.invalid", "theirs") as client, pytest.raises(ProblemError, match="text/html"):
        client.page()
    asyncio.run(story())
    assert [path.partition("?")[0] for _, path in stranger.asked] == 2 * ["http://peelbound.invalid/v1/audits"]
