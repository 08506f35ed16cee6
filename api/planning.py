"""Plans are computed in a short-lived process: only there is torch imported, and a crash there is not ours."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec

import anyio
import anyio.lowlevel
from pydantic import ValidationError

from peelbound.api.errors import PlanUnavailable
from peelbound.api.places import Places
from peelbound.api.turns import Turns
from peelbound.service.schemas.plan import AuditPlan
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings

log = logging.getLogger(__name__)

COMMAND = [sys.executable, "-P", "-m", "peelbound.service.controller.plan_program"]
TIMEOUT_SECONDS = 60.0
AT_ONCE = 2
TURN_SECONDS = TIMEOUT_SECONDS + 5
"""How long a request waits for its turn: by then whatever was being computed when it came has ended."""
MOST_OF_A_TENANT = 4
"""Requests that are being carried out or wait."""


class Planner:
    """Runs the planning process, a few at a time and never for longer than the time limit.

    Tenants take turns; one that is alone has them all. The process takes the request's JSON on standard input and
    writes an `AuditPlan` or a `Problem` on standard output.
    """

    def __init__(
        self,
        settings: Settings,
        command: list[str] = COMMAND,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._settings = settings
        self._command = command
        self._timeout_seconds = timeout_seconds
        self._places = Places("plans", MOST_OF_A_TENANT)
        self._turns = Turns(AT_ONCE)

    async def plan(
        self, tenant: str, request: AuditRequest, hung_up: Callable[[], Awaitable[None]] = anyio.sleep_forever
    ) -> AuditPlan | Problem | None:
        """What an audit of the tenant would cost, or why it cannot be carried out; None if nobody waits for it.

        Args:
            tenant: who asks.
            request: what for.
            hung_up: returns when it has hung up; then nothing is begun, and what was begun is broken off.

        Raises:
            TenantBusy: the tenant has asked for too many already.
            PlanUnavailable: no turn or no answer within the time limits, an answer that cannot be read, or no torch on
                this replica.
        """
        if find_spec("torch") is None:
            raise PlanUnavailable(
                "This API replica is installed without torch, with which a plan reads the model's architecture.",
                remedy="Ask for a plan where peelbound[server] is installed: `peelbound plan` without PEELBOUND_URL.",
            )
        done = None
        with self._places.one(tenant), anyio.CancelScope() as wanted:

            async def watch() -> None:
                await hung_up()
                wanted.cancel()

            watching = asyncio.create_task(watch())
            try:
                async with self._turn(tenant):
                    await anyio.lowlevel.checkpoint()  # who has hung up already is noticed here
                    done = await self._computed(tenant, request)
            finally:
                watching.cancel()
        if done is None:
            return None
        try:
            return AuditPlan.model_validate_json(done.stdout)
        except ValidationError:
            pass
        try:
            return Problem.model_validate_json(done.stdout)
        except ValidationError as error:
            last_words = done.stderr[-4000:].decode(errors="replace")
            log.error("planning ended with status %d: %s", done.returncode, last_words)
            raise PlanUnavailable(
                f"The planning process ended with status {done.returncode} and no plan.", remedy="Try again later."
            ) from error

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            try:
                with anyio.fail_after(TURN_SECONDS):
                    await held.enter_async_context(self._turns.one(tenant))
            except TimeoutError as error:
                raise PlanUnavailable(
                    f"Other plans are being computed; the turn did not come within {TURN_SECONDS:g} seconds.",
                    remedy="Try again later.",
                ) from error
            yield

    async def _computed(self, tenant: str, request: AuditRequest) -> "subprocess.CompletedProcess[bytes]":
        try:
            with anyio.fail_after(self._timeout_seconds):
                return await anyio.run_process(
                    self._command,
                    input=request.model_dump_json().encode(),
                    check=False,
                    env=os.environ | self._settings.of_tenant(tenant).environment(),
                )
        except TimeoutError as error:
            raise PlanUnavailable(
                f"The plan was not computed within {self._timeout_seconds:g} seconds.", remedy="Try again later."
            ) from error
