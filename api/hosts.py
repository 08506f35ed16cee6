"""Only requests addressed to us are answered.

A page on the web can make a browser talk to loopback. The `Host` header gives away a name that was rebound to our
address, the `Origin` header a page that is not ours.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from peelbound.api.problems import problem_response
from peelbound.service.schemas.problem import Problem

PROBES = frozenset({"/healthz", "/readyz"})
"""What orchestrators ask; there is nothing to learn or change."""
MONITORED = PROBES | {"/metrics"}
"""What machines ask again and again: neither logged nor traced, and answered under any name, since orchestrators probe
and Prometheus scrapes by address. For metrics a page on the web would need a token with the scope `admin`, which no
cookie holds."""


class HostGuard:
    """ASGI middleware that refuses foreign `Host` (421) and `Origin` (403) headers."""

    def __init__(self, app: ASGIApp, hosts: list[str], origins: list[str]) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)
        self.origins = frozenset(origin.lower() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http" or scope["path"] in MONITORED:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem = self._refusal(scope["scheme"], headers.get("host", ""), headers.get("origin"))
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await problem_response(problem)(scope, receive, send)

    def _refusal(self, scheme: str, host: str, origin: str | None) -> Problem | None:
        if _name(host) not in self.hosts:
            return Problem.make(
                "host-refused",
                "The service does not answer to this host name",
                421,
                f"The Host header is {host!r}.",
                "Address the service by a configured name, or add the name to PEELBOUND_ALLOWED_HOSTS.",
            )
        if origin is not None and origin.lower() not in self.origins | {f"{scheme}://{host}".lower()}:
            return Problem.make(
                "origin-refused",
                "Pages of this origin are not served",
                403,
                f"The Origin header is {origin!r}.",
                "Add the origin to PEELBOUND_ALLOWED_ORIGINS if its pages may use the service.",
            )
        return None


def _name(host: str) -> str:
    """The host without its port: `[::1]:80` → `[::1]`."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()
