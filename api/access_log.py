"""A line for each request: what was asked, how it was answered, how long it took, by whose token."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peelbound.api.hosts import MONITORED

log = logging.getLogger(__name__)


class AccessLog:
    """ASGI middleware. The query stays out of the log: a browser's link carries its token there."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http" or scope["path"] in MONITORED or not log.isEnabledFor(logging.INFO):
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - began
            fields = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": round(seconds, 4)}
            if identity := scope.get("state", {}).get("identity"):
                fields |= {"tenant": identity.tenant, "token": identity.name}
            # repr: a path may hold whatever a stranger sends, line ends included
            log.info("%s %r %s", scope["method"], scope["path"], status or "broken off", extra=fields)
