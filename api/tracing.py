"""A span for each request, below the caller's where it brings a `traceparent`."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peelbound.api.hosts import MONITORED
from peelbound.api.methods import known
from peelbound.service import tracing


class Traced:
    """ASGI middleware. No URL is written down: a browser's link carries its token in the query."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if not tracing.enabled() or scope["type"] != "http" or scope["path"] in MONITORED:
            await self.app(scope, receive, send)
            return
        method = known(scope["method"])
        attributes = {"http.request.method": method, "peelbound.request_id": scope["state"]["request_id"]}
        parent = Headers(scope=scope).get("traceparent")
        with tracing.span(method, parent=parent, kind="server", attributes=attributes) as span:

            async def noting(message: Message) -> None:
                if span is not None and message["type"] == "http.response.start":
                    route = getattr(scope.get("route"), "path", "unmatched")
                    span.update_name(f"{method} {route}")
                    span.set_attributes({"http.route": route, "http.response.status_code": message["status"]})
                await send(message)

            await self.app(scope, receive, noting)
