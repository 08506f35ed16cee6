"""The page at `/`: recent audits, for whoever followed the link that `peelbound up` printed."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from peelbound.api.auth import COOKIE, READ_ONLY
from peelbound.api.context import Service
from peelbound.api.errors import LinkTokenTooPowerful, Unauthenticated
from peelbound.api.pages import html_page, templates
from peelbound.service.database.tokens import Identity

router = APIRouter()

COOKIE_SECONDS = 30 * 24 * 3600
RECENT = 50


async def _reader(request: Request) -> Identity | None:
    reader: Identity | None = request.scope["state"].get("identity")  # the gate left it here
    return reader


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
def index(
    service: Service,
    request: Request,
    reader: Annotated[Identity | None, Depends(_reader)],
    token: Annotated[str | None, Query()] = None,
) -> Response:
    """Recent audits; `?token=` is turned into a cookie and disappears from the address."""
    if token is not None:
        return _sign_in(service, request, token)
    page = service.audits.page(reader.tenant, limit=RECENT) if reader is not None else None
    runs = service.audits.runs(reader.tenant) if reader is not None else []
    return html_page(templates.get_template("index.html").render(page=page, runs=runs))


def _sign_in(service: Service, request: Request, token: str) -> Response:
    reader = service.tokens.find(token)
    if reader is None:
        raise Unauthenticated("The link's token is not known.", remedy="Use the link that `peelbound up` printed last.")
    if reader.scopes != READ_ONLY:
        raise LinkTokenTooPowerful(
            "The link's token may do more than read.", remedy="Use the link that `peelbound up` printed."
        )
    response = RedirectResponse("/", 303, headers={"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"})
    response.set_cookie(
        COOKIE,
        token,
        max_age=COOKIE_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response
