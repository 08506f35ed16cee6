"""No body is read beyond the limit."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peelbound.api.problems import CLOSE, http_problem, problem_response


class BodyLimit:
    """ASGI middleware: 413 at once for a declared length beyond the limit, and as soon as a stream passes it.

    Starlette's own middleware answers in plain text; raised inside the application the refusal becomes a problem.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.detail = f"At most {max_bytes} bytes are taken."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self.max_bytes:
            await problem_response(http_problem(413, self.detail), CLOSE)(scope, receive, send)
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, self.detail, CLOSE)
            return message

        await self.app(scope, bounded, send)
