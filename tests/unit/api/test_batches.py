"""Questions that are asked by many at once: who shares a query with whom, and who waits for nobody."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from peelbound.api.batches import Batches


class Oracle:
    """Answers in capitals what is no "?"; the first question is answered when the test says so."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.answers = threading.Event()

    def __call__(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.questions.append(sorted(keys))
        if len(self.questions) == 1:
            assert self.answers.wait(60)
        return {key: key.upper() for key in keys if key != "?"}


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def asking(*questions: Awaitable[str | None]) -> "asyncio.Future[list[str | None]]":
    return asyncio.gather(*questions)


def test_who_comes_alone_is_asked_for_at_once_and_those_who_come_meanwhile_share_the_next_question() -> None:
    oracle = Oracle()

    async def ask() -> list[str | None]:
        batches = Batches(oracle, asyncio.Lock())
        first = asking(batches.of("a"))
        await until(lambda: oracle.questions == [["a"]])
        others = asking(*(batches.of(key) for key in "bcb?"))
        await asyncio.sleep(0)
        oracle.answers.set()
        return await first + await others + [await batches.of("d")]

    assert asyncio.run(ask()) == ["A", "B", "C", "B", None, "D"]
    assert oracle.questions == [["a"], ["?", "b", "c"], ["d"]]


def test_kinds_that_share_a_turn_gather_while_either_is_asked() -> None:
    oracle, other = Oracle(), Oracle()
    other.answers.set()

    async def ask() -> None:
        turn = asyncio.Lock()
        one, two = Batches(oracle, turn), Batches(other, turn)
        first = asking(one.of("a"))
        await until(lambda: bool(oracle.questions))
        others = [asking(two.of("b")), asking(two.of("c"))]
        await asyncio.sleep(0.01)
        assert other.questions == []
        oracle.answers.set()
        await asyncio.gather(first, *others)

    asyncio.run(ask())
    assert other.questions == [["b", "c"]]


def test_a_question_that_hangs_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peelbound.api.batches.PATIENCE_SECONDS", 0.01)
    oracle = Oracle()

    async def ask() -> list[str | None]:
        batches = Batches(oracle, asyncio.Lock())
        hanging = asking(batches.of("a"))
        await until(lambda: bool(oracle.questions))
        passed = await batches.of("b")
        assert not hanging.done()
        oracle.answers.set()
        return [passed, *await hanging]

    assert asyncio.run(ask()) == ["B", "A"]


def test_an_answer_is_of_a_question_that_began_after_it_was_asked_for() -> None:
    """Also for a key that is being asked for at the moment: what is true may have changed since."""
    oracle = Oracle()

    async def ask() -> None:
        batches = Batches(oracle, asyncio.Lock())
        first = asking(batches.of("a"))
        await until(lambda: bool(oracle.questions))
        second = asking(batches.of("a"))
        oracle.answers.set()
        await asyncio.gather(first, second)

    asyncio.run(ask())
    assert oracle.questions == [["a"], ["a"]]


def test_a_failure_is_told_to_all_who_asked_and_to_nobody_else() -> None:
    failing = True

    def ask_database(keys: Sequence[str]) -> Mapping[str, str]:
        if failing:
            raise ZeroDivisionError
        return {key: key for key in keys}

    async def ask() -> str | None:
        nonlocal failing
        batches = Batches(ask_database, asyncio.Lock())
        told = await asyncio.gather(*(batches.of(key) for key in "ab"), return_exceptions=True)
        assert [type(each) for each in told] == [ZeroDivisionError] * 2
        failing = False
        return await batches.of("a")

    assert asyncio.run(ask()) == "a"


def test_who_hangs_up_leaves_the_answer_to_the_others() -> None:
    oracle = Oracle()

    async def ask() -> str | None:
        batches = Batches(oracle, asyncio.Lock())
        leaving, staying = (asyncio.create_task(batches.of("a")) for _ in range(2))
        await until(lambda: bool(oracle.questions))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        oracle.answers.set()
        return await staying

    assert asyncio.run(ask()) == "A"
