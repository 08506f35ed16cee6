"""Whether this replica can answer; asked anew every two seconds at most, because anybody may ask."""

import time
from collections.abc import Callable

import anyio
from fastapi.concurrency import run_in_threadpool

from peelbound.api.context import Context
from peelbound.api.errors import ReplicaEnding
from peelbound.service.schemas.base import WireModel
from peelbound.workers.errors import PeelboundError

LASTING_SECONDS = 2.0


class Ready(WireModel):
    """`GET /readyz`: ages in seconds, None where there is none. Whether work gets done is told and is no reason to be
    taken out of service: without controllers audits can still be submitted, read and cancelled."""

    status: str = "ready"
    controllers: int
    """How many gave a sign of life within a lease's time."""
    oldest_claimable_seconds: float | None
    controller_seen_seconds: float | None


class Readiness:
    """The last answer, and how to get the next one.

    The probe needs no token and looks at the database and writes to the store: what strangers can cause is bounded by
    letting an answer, good or bad, last a while. Those who ask meanwhile wait in the event loop and hold no thread.
    """

    def __init__(self, context: Context, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._turn = anyio.Lock()
        self._answer: Ready | PeelboundError | None = None
        self._expires = 0.0

    async def ask(self) -> Ready:
        """The answer, at most `LASTING_SECONDS` old.

        Raises:
            ReplicaEnding: this replica is about to end.
            PeelboundError: the database does not answer, or the store takes no writes.
        """
        if self._context.draining.begun:
            raise ReplicaEnding("This replica is about to end.", remedy="Ask another one.")
        async with self._turn:
            if self._answer is None or self._clock() >= self._expires:
                self._answer = await run_in_threadpool(self._look)
                self._expires = self._clock() + LASTING_SECONDS
            answer = self._answer
        if isinstance(answer, PeelboundError):
            raise answer.with_traceback(None)  # or it would grow with every raise
        return answer

    def _look(self) -> Ready | PeelboundError:
        try:
            return self._ready()
        except PeelboundError as error:
            return error

    def _ready(self) -> Ready:
        health = self._context.leases.health()
        self._context.store.check()
        return Ready(
            controllers=health.controllers,
            oldest_claimable_seconds=health.oldest_claimable_seconds,
            controller_seen_seconds=health.controller_seen_seconds,
        )
