"""Questions to the database that are asked by many requests at once: those of one moment share a query and a thread.

Whoever comes alone is asked for at once. While a question is under way, those who come gather for the next, so the
busier a process is, the less a request costs. Every answer is of a query that began after it was asked for: nothing is
remembered.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from fastapi.concurrency import run_in_threadpool

PATIENCE_SECONDS = 0.1
"""A question that takes longer, because its connection hangs, say, holds up no others."""

Key = TypeVar("Key")
Answer = TypeVar("Answer")


class Batches(Generic[Key, Answer]):
    """Gathers questions of one kind; belongs to one event loop.

    Args:
        ask: answers any number of distinct keys, in a thread; those that it leaves out have no answer.
        turn: held while a question is under way. Several kinds that share one gather while any of them is asked.
        gather_seconds: how long a question waits for others to join it; None: not at all.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Key]], Mapping[Key, Answer]],
        turn: asyncio.Lock,
        *,
        gather_seconds: float | None = None,
    ) -> None:
        self._ask = ask
        self._turn = turn
        self._gather_seconds = gather_seconds
        self._waiting: dict[Key, list[asyncio.Future[Answer | None]]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def of(self, key: Key) -> Answer | None:
        """The key's answer, if it has one.

        Raises:
            Exception: whatever `ask` raises, to all that share the question.
        """
        # A future for each: one that hangs up must not take the answer from the others.
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(answer)
        if self._asking is None:
            self._asking = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                if self._gather_seconds is not None:
                    await asyncio.sleep(self._gather_seconds)
                async with self._turn:
                    waiting, self._waiting = self._waiting, {}
                    answering = asyncio.create_task(self._answer(waiting))
                    self._answering.add(answering)  # the loop itself holds tasks weakly
                    answering.add_done_callback(self._answering.discard)
                    await asyncio.wait({answering}, timeout=PATIENCE_SECONDS)
        finally:
            self._asking = None

    async def _answer(self, waiting: dict[Key, list[asyncio.Future[Answer | None]]]) -> None:
        try:
            found = await run_in_threadpool(self._ask, list(waiting))
        except Exception as error:  # whoever asked handles it
            for answer in (answer for answers in waiting.values() for answer in answers if not answer.done()):
                answer.set_exception(error)
            return
        for key, answers in waiting.items():
            for answer in answers:
                if not answer.done():  # or it has hung up
                    answer.set_result(found.get(key))
