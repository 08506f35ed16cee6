"""Probes, metrics, and what the problem types mean."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from peelbound.api.auth import Admin
from peelbound.api.context import Service
from peelbound.api.errors import ControllerAbsent
from peelbound.api.problem_types import describe
from peelbound.api.problems import responses
from peelbound.service.schemas.base import WireModel

router = APIRouter(tags=["operations"])


class Alive(WireModel):
    """`GET /healthz`."""

    status: str = "ok"


class Ready(WireModel):
    """`GET /readyz`: ages in seconds, None where there is none."""

    status: str = "ready"
    oldest_claimable_seconds: float | None
    controller_seen_seconds: float | None


@router.get("/healthz", operation_id="getHealth")
def healthz() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/readyz", operation_id="getReadiness", responses=responses(503))
def readyz(service: Service) -> Ready:
    """Work can be taken and gets done: the database answers, the store takes writes, no audit waits in vain."""
    health = service.leases.health()
    service.store.check()
    patience = 2 * service.settings.lease_seconds
    waiting = health.oldest_claimable_seconds
    seen = health.controller_seen_seconds
    if waiting is not None and waiting > patience and (seen is None or seen > patience):
        since = "never" if seen is None else f"{seen:.0f} s ago"
        raise ControllerAbsent(
            f"An audit has waited for {waiting:.0f} s; a controller was last seen: {since}.",
            remedy="Start a controller: python -m peelbound.service.controller.",
        )
    return Ready(oldest_claimable_seconds=waiting, controller_seen_seconds=seen)


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
    "/problems/{slug}", operation_id="getProblemType", response_class=PlainTextResponse, responses=responses(404, 422)
)
def problem_type(slug: Annotated[str, Path(max_length=100)]) -> PlainTextResponse:
    """What a problem's `type` means."""
    text = describe(slug)
    if text is None:
        raise HTTPException(404)
    return PlainTextResponse(f"{slug}\n\n{text}\n", headers={"X-Content-Type-Options": "nosniff"})
