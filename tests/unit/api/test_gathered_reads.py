"""Tokens and audits that are looked up for many requests at once: each request gets its own, as it is now."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import Engine, event

from peelbound.api.callers import Callers
from peelbound.api.records import Records
from peelbound.service.database.audits import SMALL_BYTES, Audits
from peelbound.service.database.engine import database_clock
from peelbound.service.database.errors import AuditNotFound, TokenExpired
from peelbound.service.database.tokens import Identity, Tokens
from peelbound.service.schemas.record import AuditRecord, AuditState
from peelbound.service.schemas.request import AuditRequest, Calibration

READ = frozenset({"read"})


@pytest.fixture
def queries(engine: Engine) -> list[str]:
    """The SELECT statements from here on."""
    found: list[str] = []

    def note(*call: str) -> None:
        if call[2].startswith("SELECT"):
            found.append(call[2])

    event.listen(engine, "before_cursor_execute", note)
    return found


def a_request(text: str = "a text") -> AuditRequest:
    return AuditRequest(checkpoint="/data/ckpt", calibration=Calibration(texts=[text]))


class TestRecords:
    def test_readers_of_one_moment_are_one_query_and_each_gets_its_own(
        self, engine: Engine, queries: list[str]
    ) -> None:
        audits = Audits(engine)
        submitted = [audits.submit("acme", a_request(f"text {n}"), None)[0] for n in range(20)]
        theirs = audits.submit("other", a_request(), None)[0]
        queries.clear()

        async def read() -> list[AuditRecord | BaseException]:
            records = Records(audits, asyncio.Lock())
            asked = [("acme", record.id) for record in submitted] + [("acme", theirs.id), ("other", theirs.id)]
            return await asyncio.gather(*(records.of(*key) for key in asked), return_exceptions=True)

        found = asyncio.run(read())
        assert found[:20] == submitted
        assert isinstance(found[20], AuditNotFound)
        assert found[21] == theirs
        assert len(queries) == 2  # all of them, and once more for the one that is not there

    def test_a_large_request_is_read_by_itself(self, engine: Engine, queries: list[str]) -> None:
        audits = Audits(engine)
        large = audits.submit("acme", a_request("x" * SMALL_BYTES), None)[0]
        small = audits.submit("acme", a_request(), None)[0]
        assert audits.small([("acme", large.id), ("acme", small.id)]) == {("acme", small.id): small}
        queries.clear()

        async def read() -> list[AuditRecord]:
            records = Records(audits, asyncio.Lock())
            return await asyncio.gather(records.of("acme", large.id), records.of("acme", small.id))

        assert asyncio.run(read()) == [large, small]
        assert len(queries) == 2

    def test_what_changed_is_seen_by_whoever_asks_afterwards(self, engine: Engine) -> None:
        audits = Audits(engine)
        audit = audits.submit("acme", a_request(), None)[0].id

        async def read() -> list[AuditState]:
            records = Records(audits, asyncio.Lock())
            before = await records.of("acme", audit)
            await asyncio.to_thread(audits.cancel, "acme", audit)
            return [before.state, (await records.of("acme", audit)).state]

        assert asyncio.run(read()) == [AuditState.QUEUED, AuditState.CANCELLED]


class TestCallers:
    def test_tokens_of_one_moment_are_one_query_and_each_is_its_own(self, engine: Engine, queries: list[str]) -> None:
        ahead = timedelta()
        tokens = Tokens(engine, clock=lambda connection: database_clock(connection) + ahead)
        lasting = [tokens.create("acme", f"token {n}", READ) for n in range(20)]
        short = tokens.create("acme", "short", READ, lasts=timedelta(hours=1))
        longer = tokens.create("acme", "longer", READ, lasts=timedelta(hours=3))
        ahead = timedelta(hours=2)
        queries.clear()

        async def look() -> list[Identity | BaseException | None]:
            callers = Callers(tokens, asyncio.Lock())
            secrets = [*lasting, short, longer, "peel_unknown", lasting[0]]
            return await asyncio.gather(*(callers.of(secret) for secret in secrets), return_exceptions=True)

        found = asyncio.run(look())
        assert [each.name for each in found[:20] if isinstance(each, Identity)] == [f"token {n}" for n in range(20)]
        assert isinstance(found[20], TokenExpired)
        assert "short" in str(found[20])
        assert isinstance(found[21], Identity)
        assert (found[21].tenant, found[21].name, found[21].scopes) == ("acme", "longer", READ)
        assert found[22] is None
        assert found[23] == found[0]
        assert len(queries) == 1

    def test_a_token_that_is_revoked_opens_nothing_from_then_on(self, engine: Engine) -> None:
        tokens = Tokens(engine)
        secret = tokens.create("acme", "one", READ)

        async def look() -> tuple[Identity | None, Identity | None]:
            callers = Callers(tokens, asyncio.Lock())
            before = await callers.of(secret)
            await asyncio.to_thread(tokens.revoke, "acme", "one")
            return before, await callers.of(secret)

        before, after = asyncio.run(look())
        assert before is not None
        assert after is None
