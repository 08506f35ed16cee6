"""Whose turn is next, and that none is lost."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from peelbound.api.turns import Turns


class Asked:
    """Requests for turns: who has begun, in order, and the end of each at will."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self.begun: list[str] = []

    async def ask(self, *names: str) -> None:
        """By each name, whose first letter is its tenant's."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._take(name))
        await anyio.wait_all_tasks_blocked()

    async def end(self, *names: str) -> None:
        """Let these end that have a turn, one after the other."""
        for name in names:
            assert name in self.begun
            self._ends[name].set()
            await self._tasks[name]
            await anyio.wait_all_tasks_blocked()

    def cancel(self, name: str) -> None:
        """Break it off, wherever it is."""
        self._tasks[name].cancel()

    async def _take(self, name: str) -> None:
        async with self._turns.one(name[0]):
            self.begun.append(name)
            await self._ends[name].wait()


def played(play: Callable[[Asked], Awaitable[None]], turns: Turns) -> list[str]:
    async def all_of_it() -> list[str]:
        asked = Asked(turns)
        await play(asked)
        return asked.begun

    return asyncio.run(all_of_it())


def test_a_tenant_that_is_alone_has_them_all() -> None:
    async def play(asked: Asked) -> None:
        await asked.ask("a1", "a2", "a3")
        assert asked.begun == ["a1", "a2"]
        await asked.end("a2", "a1", "a3")

    assert played(play, Turns(2)) == ["a1", "a2", "a3"]


def test_a_free_turn_goes_to_whom_the_fewest_are_of() -> None:
    async def play(asked: Asked) -> None:
        await asked.ask("a1", "a2", "a3", "a4", "b1", "b2")
        await asked.end("a1", "a2", "a3", "b1", "b2", "a4")

    assert played(play, Turns(2)) == ["a1", "a2", "b1", "a3", "a4", "b2"]


def test_equals_take_turns_however_many_each_asks_for() -> None:
    async def play(asked: Asked) -> None:
        await asked.ask("a1", "a2", "a3", "b1", "c1", "b2")
        await asked.end("a1", "b1", "c1", "a2", "b2", "a3")

    assert played(play, Turns(1)) == ["a1", "b1", "c1", "a2", "b2", "a3"]


@pytest.mark.parametrize("waiting", [True, False], ids=["while it waits", "as its turn comes"])
def test_a_wait_that_is_broken_off_loses_no_turn_and_leaves_nothing_behind(waiting: bool) -> None:
    turns = Turns(1)

    async def play(asked: Asked) -> None:
        async with turns.one("a"):
            await asked.ask("b1", "c1")
            if waiting:
                asked.cancel("b1")
                await anyio.wait_all_tasks_blocked()
        asked.cancel("b1")  # nothing has run since the turn was given away
        await anyio.wait_all_tasks_blocked()
        await asked.end("c1")

    assert played(play, turns) == ["c1"]
    assert (turns._free, turns._held, turns._since, turns._waits) == (1, {}, {}, [])
