"""A service in the client's own process, whose answers the test writes."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import httpx2
import pytest

from peelbound import aio, client
from peelbound.aio import AsyncClient
from peelbound.client import Client
from peelbound.service.schemas.record import AuditRecord, Event, Progress

URL = "http://127.0.0.1:8734"
Answer = Callable[[httpx2.Request], httpx2.Response]


class Either:
    """A client, synchronous or not, called alike.

    Attributes:
        pauses: seconds that it rested between attempts, none of which were waited for.
    """

    def __init__(self, kind: str) -> None:
        self.pauses: list[float] = []
        self._synchronous = kind == "sync"

    def events(self, audit_id: str, after: int = 0) -> list[Event]:
        async def all_of_them() -> list[Event]:
            async with AsyncClient(URL, "t") as client:
                return [event async for event in client.events(audit_id, after=after)]

        if not self._synchronous:
            return asyncio.run(all_of_them())
        with Client(URL, "t") as client:
            return list(client.events(audit_id, after=after))

    def wait(self, audit_id: str, progress: Callable[[Progress], None]) -> AuditRecord:
        async def story() -> AuditRecord:
            async with AsyncClient(URL, "t") as client:
                return await client.wait(audit_id, progress=progress)

        if not self._synchronous:
            return asyncio.run(story())
        with Client(URL, "t") as client:
            return client.wait(audit_id, progress=progress)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Has clients of loopback made from now on answered by a function."""

    def by(answer: Answer) -> None:
        for name in ("HTTPTransport", "AsyncHTTPTransport"):
            monkeypatch.setattr(httpx2, name, lambda: httpx2.MockTransport(answer))

    return by


@pytest.fixture(params=["sync", "async"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Either:
    either = Either(request.param)

    async def sleep(seconds: float) -> None:
        either.pauses.append(seconds)

    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=either.pauses.append))
    monkeypatch.setattr(aio, "asyncio", SimpleNamespace(sleep=sleep))
    return either
