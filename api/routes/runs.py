"""Training runs: the audits of their checkpoints, by step. A run's name may hold slashes and colons."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import HTMLResponse

from peelbound.api.auth import Reader
from peelbound.api.context import Service
from peelbound.api.pages import html_page
from peelbound.api.problems import responses
from peelbound.service.report.html import render_run
from peelbound.service.schemas.record import RunPage, RunSeries

router = APIRouter(tags=["runs"])

RunName = Annotated[str, Path(min_length=1, max_length=128, examples=["team/llama-1b"])]


@router.get("/v1/runs", operation_id="listRuns", responses=responses(401, 403))
def page(service: Service, caller: Reader) -> RunPage:
    """The runs that have audits."""
    return RunPage(items=service.audits.runs(caller.tenant))


# Before the series: its path would take `…/report.html` for a part of the name.
@router.get(
    "/v1/runs/{run:path}/report.html",
    operation_id="getRunPage",
    response_class=HTMLResponse,
    responses=responses(401, 403, 404, 422),
)
def report_page(service: Service, caller: Reader, run: RunName) -> HTMLResponse:
    """The run's YES cloud as a page that stands alone."""
    return html_page(render_run(service.audits.run_series(caller.tenant, run)))


@router.get("/v1/runs/{run:path}", operation_id="getRun", responses=responses(401, 403, 404, 422))
def series(service: Service, caller: Reader, run: RunName) -> RunSeries:
    """The run's audits by step: its YES cloud."""
    return service.audits.run_series(caller.tenant, run)
