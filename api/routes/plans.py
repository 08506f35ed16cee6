"""What an audit would cost."""

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from peelbound.api.admission import admit
from peelbound.api.auth import Writer
from peelbound.api.bodies import Sent
from peelbound.api.context import Service
from peelbound.api.planning import Planner
from peelbound.api.problems import problem_response, responses
from peelbound.service.schemas.plan import AuditPlan
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.request import AuditRequest

router = APIRouter(tags=["audits"])


class _Unanswered(Response):
    """For a client that has hung up: nothing is sent, so nothing is counted as an error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer nothing (ASGI)."""


async def _hung_up(http: Request) -> None:
    """Wait until the client does; its body has been read."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


@router.post(
    "/v1/audits:plan",
    operation_id="planAudit",
    response_model=AuditPlan,
    responses=responses(401, 403, 413, 422),
)
async def plan(service: Service, caller: Writer, request: Sent[AuditRequest], http: Request) -> AuditPlan | Response:
    """What this audit would do and cost, without running it: problems, bytes, memory, time."""
    admit(request, service.allow(caller.tenant))
    planner: Planner = http.app.state.planner
    answer = await planner.plan(caller.tenant, request, lambda: _hung_up(http))
    if answer is None:
        return _Unanswered()
    return problem_response(answer) if isinstance(answer, Problem) else answer
