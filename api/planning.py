"""Plans are computed in a short-lived process: only there is torch imported, and a crash there is not ours."""

import logging
import os
import sys
from importlib.util import find_spec

import anyio
from pydantic import ValidationError

from peelbound.api.errors import PlanUnavailable
from peelbound.service.schemas.plan import AuditPlan
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings

log = logging.getLogger(__name__)

COMMAND = [sys.executable, "-P", "-m", "peelbound.service.controller.planning"]
TIMEOUT_SECONDS = 60.0
AT_ONCE = 2


class Planner:
    """Runs the planning process, a few at a time and never for longer than the time limit.

    The process takes the request's JSON on standard input and writes an `AuditPlan` or a `Problem` on standard output.
    """

    def __init__(
        self, settings: Settings, command: list[str] = COMMAND, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self._settings = settings
        self._command = command
        self._timeout_seconds = timeout_seconds
        self._turns = anyio.Semaphore(AT_ONCE)

    async def plan(self, tenant: str, request: AuditRequest) -> AuditPlan | Problem:
        """What an audit of the tenant would cost, or why it cannot be carried out.

        Raises:
            PlanUnavailable: no answer within the time limit, or one that cannot be read, or no torch on this replica.
        """
        if find_spec("torch") is None:
            raise PlanUnavailable(
                "This API replica is installed without torch, with which a plan reads the model's architecture.",
                remedy="Ask for a plan where peelbound[server] is installed: `peelbound plan` without PEELBOUND_URL.",
            )
        try:
            with anyio.fail_after(self._timeout_seconds):
                async with self._turns:
                    done = await anyio.run_process(
                        self._command,
                        input=request.model_dump_json().encode(),
                        check=False,
                        env=os.environ | self._settings.of_tenant(tenant).environment(),
                    )
        except TimeoutError as error:
            raise PlanUnavailable(
                f"The plan was not computed within {self._timeout_seconds:g} seconds.", remedy="Try again later."
            ) from error
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
