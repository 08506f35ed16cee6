"""Probes, metrics, and what the problem types mean."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from peelbound.api.auth import Admin
from peelbound.api.problem_types import describe
from peelbound.api.problems import responses
from peelbound.api.readiness import Readiness, Ready
from peelbound.service.schemas.base import WireModel

router = APIRouter(tags=["operations"])


class Alive(WireModel):
    """`GET /healthz`."""

    status: str = "ok"


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", operation_id="getHealth")
def healthz() -> Alive:
    """The process answers."""
    return Alive()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", operation_id="getReadiness", responses=responses(503, 507))
async def readyz(request: Request) -> Ready:
    """This replica can answer: the database answers, the store takes writes, and it is not about to end.

    The answer is up to two seconds old. It says how many controllers there are, and is the same when there are none.
    """
    readiness: Readiness = request.app.state.readiness
    return await readiness.ask()


@router.get(
    "/metrics",
    operation_id="getMetrics",
    response_class=PlainTextResponse,
    responses=responses(401, 403),
)
def metrics(request: Request, _caller: Admin) -> Response:
    """Prometheus metrics over all tenants; needs the scope admin."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/problems/{slug}",
    operation_id="getProblemType",
    response_class=PlainTextResponse,
    responses=responses(404, 421, 422),
)
def problem_type(slug: Annotated[str, Path(max_length=100)]) -> PlainTextResponse:
    """What a problem's `type` means."""
    text = describe(slug)
    if text is None:
        raise HTTPException(404)
    return PlainTextResponse(f"{slug}\n\n{text}\n", headers={"X-Content-Type-Options": "nosniff"})
