"""What a submission carries."""

import asyncio
from collections.abc import Callable

import httpx2
import pytest

from peelbound import calls
from peelbound.aio import AsyncClient
from peelbound.client import Client
from peelbound.errors import ProblemError
from peelbound.service.schemas.request import AuditRequest, Calibration
from tests.unit.client.conftest import URL, Answer

REQUEST = AuditRequest(checkpoint="/data/ckpt", calibration=Calibration(uri="/data/text.jsonl"))


def test_a_key_goes_into_its_header() -> None:
    assert calls.submit(REQUEST, "run-7 8000").headers["Idempotency-Key"] == "run-7 8000"
    assert "Idempotency-Key" not in calls.submit(REQUEST, None).headers


@pytest.mark.parametrize("key", ["läufe-7", "run\n7"])
def test_a_key_that_no_header_may_carry_is_refused_as_by_the_service(key: str) -> None:
    with pytest.raises(ProblemError) as refused:
        calls.submit(REQUEST, key)
    assert refused.value.problem.slug == "parameter-invalid"


def test_what_takes_longer_may_answer_later_but_not_connect_later(answering: Callable[[Answer], None]) -> None:
    limits: dict[str, dict[str, float]] = {}

    def answer(request: httpx2.Request) -> httpx2.Response:
        limits[request.url.path] = request.extensions["timeout"]
        return httpx2.Response(404, json={})

    async def ask() -> None:
        async with AsyncClient(URL, "t", timeout=5) as client:
            with pytest.raises(ProblemError):
                await client.get("async", wait=60)

    answering(answer)
    with Client(URL, "t", timeout=5) as client:
        for call in (lambda: client.get("sync", wait=60), lambda: client.plan(REQUEST)):
            with pytest.raises(ProblemError):
                call()
    asyncio.run(ask())
    usual = {"connect": 5, "write": 5, "pool": 5}
    assert limits == {
        "/v1/audits/sync": usual | {"read": 65},
        "/v1/audits/async": usual | {"read": 65},
        "/v1/audits:plan": usual | {"read": 5 + calls.PLAN_SECONDS},
    }
