"""Looks at where audits stand: gathered into one query, and each caller gets its own answer."""

import asyncio

import pytest
from sqlalchemy import Engine, event

from peelbound.api.states import States
from peelbound.service.database.audits import Audits, Standing
from peelbound.service.database.errors import AuditNotFound, DatabaseUnavailable
from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.request import AuditRequest, Calibration

QUEUED = Standing(AuditState.QUEUED, 1)


@pytest.fixture
def audits(engine: Engine) -> Audits:
    return Audits(engine)


def submitted(audits: Audits, tenant: str = "acme") -> str:
    request = AuditRequest(checkpoint="/data/ckpt", calibration=Calibration(texts=["a text"]))
    return audits.submit(tenant, request, None)[0].id


def test_looks_at_the_same_time_are_one_query(engine: Engine, audits: Audits) -> None:
    ids = [submitted(audits) for _ in range(20)]
    queries: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *call: queries.append(call[2]))

    async def looks() -> list[Standing]:
        states = States(audits)
        return await asyncio.gather(*(states.of("acme", audit) for audit in [*ids, *ids]))

    assert asyncio.run(looks()) == [QUEUED] * 40
    assert len([q for q in queries if q.startswith("SELECT")]) == 1


def test_each_look_sees_what_is_true_after_it_was_asked_for(audits: Audits) -> None:
    audit = submitted(audits)

    async def looks() -> list[Standing]:
        states = States(audits)
        before = await states.of("acme", audit)
        await asyncio.to_thread(audits.cancel, "acme", audit)
        return [before, await states.of("acme", audit)]

    assert asyncio.run(looks()) == [QUEUED, Standing(AuditState.CANCELLED, 2)]


def test_an_audit_of_another_tenant_is_none(audits: Audits) -> None:
    ours, theirs = submitted(audits), submitted(audits, "other")

    async def looks() -> list[Standing | BaseException]:
        states = States(audits)
        return await asyncio.gather(states.of("acme", ours), states.of("acme", theirs), return_exceptions=True)

    seen, refused = asyncio.run(looks())
    assert seen == QUEUED
    assert isinstance(refused, AuditNotFound)


def test_who_hangs_up_leaves_the_answer_to_the_others(audits: Audits) -> None:
    audit = submitted(audits)

    async def looks() -> Standing:
        states = States(audits)
        leaving, staying = (asyncio.create_task(states.of("acme", audit)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return await staying

    assert asyncio.run(looks()) == QUEUED


def test_a_database_that_is_away_is_reported_to_all_and_asked_again(engine: Engine, audits: Audits) -> None:
    audit = submitted(audits)

    async def looks() -> tuple[list[Standing | BaseException], Standing]:
        states = States(audits)
        event.listen(engine, "before_cursor_execute", refuse)
        both = await asyncio.gather(
            states.of("acme", audit), states.of("acme", "01KACM2V7M3J0Q4S8R0V5N9T2E"), return_exceptions=True
        )
        event.remove(engine, "before_cursor_execute", refuse)
        return both, await states.of("acme", audit)

    def refuse(*_: object) -> None:
        raise DatabaseUnavailable("The database is not available.", remedy="Try again.")

    failures, after = asyncio.run(looks())
    assert all(isinstance(failure, DatabaseUnavailable) for failure in failures)
    assert after == QUEUED
