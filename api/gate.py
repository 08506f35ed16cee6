"""Who brings no known token is turned away before the body is read.

The routes ask for scopes; by then FastAPI has read and parsed the body, which may be large. So the token is looked up
here, once, and the routes find whose it is in the request's state.
"""

from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from peelbound.api.auth import identify
from peelbound.api.hosts import PROBES
from peelbound.api.problems import CLOSE, problem_at, problem_response
from peelbound.service.problems import as_problem
from peelbound.workers.errors import PeelboundError

PUBLIC = PROBES | {"/", "/openapi.json"}
PUBLIC_FOLDER = "/problems/"


class Gate:
    """ASGI middleware that answers 401 to strangers, but for the paths that are open to all."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] == "http" and scope["path"] not in PUBLIC and not scope["path"].startswith(PUBLIC_FOLDER):
            request = Request(scope)
            try:
                request.state.identity = await run_in_threadpool(identify, request.app.state.context, request)
            except PeelboundError as error:
                problem = problem_at(request, as_problem(error))
                await problem_response(problem, CLOSE)(scope, receive, send)
                return
        await self.app(scope, receive, send)
