"""Pages of configured origins may use the service from a browser (CORS); all others were refused before."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from peelbound.api.problems import problem_response
from peelbound.service.schemas.problem import Problem


class Origins(CORSMiddleware):
    """ASGI middleware that answers preflights, which bring no token, and says what a page may read.

    Cookies are not let through: pages of other origins send a token of their own.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=[origin.lower() for origin in origins if origin != "*"],  # only those that are named
            allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-Id"],
            expose_headers=["Location", "Retry-After", "X-Request-Id", "ETag"],
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Whether the browser may send the request; the framework's refusal, as a problem."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        problem = Problem.make(
            "preflight-refused",
            "A page may not send this",
            answer.status_code,
            f"{bytes(answer.body).decode()}.",
            f"Pages may use {', '.join(self.allow_methods)} with {answer.headers['Access-Control-Allow-Headers']}.",
        )
        kept = {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}
        return problem_response(problem, kept | {"Vary": answer.headers["Vary"]})
