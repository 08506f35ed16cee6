"""What nobody expected becomes a problem document here, where it is still counted, logged and has its request's id.

The framework's own place for that is outside all middleware: what it answers is seen by none of it.
"""

import logging

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peelbound.api.problems import CLOSE, INTERNAL, problem_at, problem_response
from peelbound.service import tracing

log = logging.getLogger(__name__)


class Failures:
    """ASGI middleware: an exception that comes before the answer is logged and answered with 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception as error:  # whatever a route raises: the client is owed an answer, the log the cause
            if begun:  # nothing can be answered any more: the server logs it and cuts the connection
                raise
            log.exception("%s %r failed", scope["method"], scope["path"])
            tracing.failed(error)
            await problem_response(problem_at(Request(scope), INTERNAL), CLOSE)(scope, receive, send)
