"""Who brings no known token, or asks too fast, is turned away before the body is read.

The routes ask for scopes; by then FastAPI has read and parsed the body, which may be large. So the token is looked up
here, once, and the routes find whose it is in the request's state.
"""

import math

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from peelbound.api.auth import identify, page_identity
from peelbound.api.errors import RateLimited
from peelbound.api.hosts import PROBES
from peelbound.api.problems import CLOSE, problem_at, problem_response
from peelbound.api.rates import Rates
from peelbound.service.database.tokens import Identity
from peelbound.service.problems import as_problem
from peelbound.workers.errors import PeelboundError

INDEX = "/"
"""Open to all, and shows more to a reader, whose requests count as any other."""
PUBLIC = PROBES | {INDEX, "/openapi.json"}
PUBLIC_FOLDER = "/problems/"


class Gate:
    """ASGI middleware that answers 401 to strangers and 429 to the impatient, but for the paths open to all."""

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self.app = app
        self.rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] == "http":
            request = Request(scope)
            try:
                if identity := await _who(request):
                    request.state.identity = identity
                    self._count(identity)
            except PeelboundError as error:
                problem = problem_at(request, as_problem(error))
                await problem_response(problem, CLOSE)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _count(self, identity: Identity) -> None:
        if wait := self.rates.wait(f"{identity.tenant}/{identity.id}"):
            raise RateLimited(
                "The token has asked more often than it may.",
                remedy="Wait as long as Retry-After says; poll with ?wait=60 instead of in a loop.",
                retry_after=math.ceil(wait),
            )


async def _who(request: Request) -> Identity | None:
    """Whose the request is; None where it may be anybody's."""
    path = request.scope["path"]
    if path == INDEX:
        return await page_identity(request.app.state.context, request)
    if path in PUBLIC or path.startswith(PUBLIC_FOLDER):
        return None
    return await identify(request.app.state.context, request)
