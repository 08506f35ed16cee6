"""Whether work can be taken and gets done; asked anew every two seconds at most, because anybody may ask."""

import time
from collections.abc import Callable

import anyio
from fastapi.concurrency import run_in_threadpool

from peelbound.api.context import Context
from peelbound.api.errors import ControllerAbsent, ReplicaEnding
from peelbound.service.schemas.base import WireModel
from peelbound.workers.errors import PeelboundError

LASTING_SECONDS = 2.0


class Ready(WireModel):
    """`GET /readyz`: ages in seconds, None where there is none."""

    status: str = "ready"
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
            ControllerAbsent: an audit has waited in vain.
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
        patience = 2 * self._context.settings.lease_seconds
        waiting = health.oldest_claimable_seconds
        seen = health.controller_seen_seconds
        if waiting is not None and waiting > patience and (seen is None or seen > patience):
            since = "never" if seen is None else f"{seen:.0f} s ago"
            raise ControllerAbsent(
                f"An audit has waited for {waiting:.0f} s; a controller was last seen: {since}.",
                remedy="Start a controller: python -m peelbound.service.controller.",
            )
        return Ready(oldest_claimable_seconds=waiting, controller_seen_seconds=seen)
