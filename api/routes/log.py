"""Who did what."""

from typing import Annotated

from fastapi import APIRouter, Query

from peelbound.api.auth import Admin
from peelbound.api.context import Service
from peelbound.api.problems import responses
from peelbound.service.schemas.log import LogPage

router = APIRouter(tags=["operations"])


@router.get("/v1/log", operation_id="listLog", responses=responses(401, 403, 422))
def page(
    service: Service,
    caller: Admin,
    *,
    target: Annotated[str | None, Query(max_length=200, description="Only what concerns this id or name")] = None,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> LogPage:
    """Who changed what in the caller's tenant, newest first; needs the scope admin."""
    return service.log.page(caller.tenant, target=target, cursor=cursor, limit=limit)
