"""Reports and the files that an audit keeps."""

import tempfile
from pathlib import Path as FilePath
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from peelbound.api import files, results
from peelbound.api.auth import Reader
from peelbound.api.context import Context, Service
from peelbound.api.pages import html_page
from peelbound.api.problems import Responses, responses
from peelbound.api.routes.audits import AuditId
from peelbound.service.report.html import render
from peelbound.service.schemas.record import ArtifactInfo, ArtifactPage
from peelbound.service.schemas.report import Report

router = APIRouter(tags=["reports"])

LINK_SECONDS = 300
_PROBLEMS = responses(401, 403, 404, 409, 422)
_JSON: Responses = {200: {"model": Report, "description": "The report"}}
_HTML: Responses = {200: {"content": {"text/html": {}}, "description": "A page of its own"}}

_EITHER: Responses = {200: {"model": Report, "content": {"text/html": {}}, "description": "The report"}}
_FILE: Responses = {
    200: {"content": {"*/*": {}}, "description": "The file, of the media type that the list of artifacts says"},
    206: {"content": {"*/*": {}}, "description": "The parts of the file that `Range` asks for"},
    304: {"description": "The file is the one of `If-None-Match`"},
    307: {"description": "The file lies behind this short-lived link"},
}
_RANGES: Responses = responses(416) | {400: {**responses(400)[400], "description": "The Range header cannot be read"}}


@router.get(
    "/v1/audits/{audit_id}/report",
    operation_id="getReport",
    response_class=Response,
    responses=_EITHER | _PROBLEMS,
)
def report(
    service: Service, caller: Reader, audit_id: AuditId, accept: Annotated[str, Header()] = "application/json"
) -> Response:
    """The report as JSON, or as a page where `Accept` names text/html before application/json."""
    answer = _page if _wants_html(accept) else _json
    response = answer(service, caller.tenant, audit_id)
    response.headers["Vary"] = "Accept"
    return response


@router.get(
    "/v1/audits/{audit_id}/report.json",
    operation_id="getReportJson",
    response_class=Response,
    responses=_JSON | _PROBLEMS,
)
def report_json(service: Service, caller: Reader, audit_id: AuditId) -> Response:
    """The report's canonical JSON, byte for byte as it was published."""
    return _json(service, caller.tenant, audit_id)


@router.get(
    "/v1/audits/{audit_id}/report.html",
    operation_id="getReportPage",
    response_class=HTMLResponse,
    responses=_HTML | _PROBLEMS,
)
def report_page(service: Service, caller: Reader, audit_id: AuditId) -> HTMLResponse:
    """The report as a page that stands alone; with a run it draws the run's YES cloud."""
    return _page(service, caller.tenant, audit_id)


@router.get("/v1/audits/{audit_id}/artifacts", operation_id="listArtifacts", responses=_PROBLEMS)
def artifacts(service: Service, caller: Reader, audit_id: AuditId) -> ArtifactPage:
    """The audit's files; `href` is a short-lived link to object storage where it can make one."""
    entries = results.manifest(service, caller.tenant, audit_id).artifacts
    return ArtifactPage(
        items=[
            ArtifactInfo(
                name=entry.name,
                bytes=entry.bytes,
                sha256=entry.sha256,
                media_type=entry.media_type,
                href=_link(service, entry) or f"/v1/audits/{audit_id}/artifacts/{quote(entry.name, safe='')}",
            )
            for entry in entries
        ]
    )


@router.head("/v1/audits/{audit_id}/artifacts/{name:path}", response_class=Response, include_in_schema=False)
@router.get(
    "/v1/audits/{audit_id}/artifacts/{name:path}",
    operation_id="getArtifact",
    response_class=Response,
    responses=_FILE | _PROBLEMS | _RANGES,
)
def artifact(
    service: Service, caller: Reader, audit_id: AuditId, name: Annotated[str, Path()], request: Request
) -> Response:
    """One file, or a redirect to a short-lived link to it."""
    entry = results.artifact(service, caller.tenant, audit_id, name)
    if files.is_known(request.headers.get("If-None-Match"), entry.sha256):
        return files.not_changed(entry.sha256)
    if request.method == "HEAD":  # also where there are links, which are good for GET alone
        return files.head(
            sha256=entry.sha256, bytes_=entry.bytes, media_type=entry.media_type, filename=_filename(entry)
        )
    link = _link(service, entry)
    if link is not None:
        return RedirectResponse(link, 307)
    # Through a file and not through memory: artifacts may be as large as a checkpoint.
    folder = tempfile.TemporaryDirectory(prefix="peelbound-")
    path = FilePath(folder.name, "artifact")
    try:
        service.store.download(entry.key, path)
    except BaseException:
        folder.cleanup()
        raise
    return files.StoredFile(
        path,
        sha256=entry.sha256,
        bytes_=entry.bytes,
        media_type=entry.media_type,
        filename=_filename(entry),
        clean=folder.cleanup,
    )


def _json(context: Context, tenant: str, audit_id: str) -> Response:
    return Response(
        results.report_json(context, tenant, audit_id),
        media_type="application/json",
        headers={"X-Content-Type-Options": "nosniff"},
    )


def _page(context: Context, tenant: str, audit_id: str) -> HTMLResponse:
    document = Report.model_validate_json(results.report_json(context, tenant, audit_id), extra="ignore")
    record = context.audits.get(tenant, audit_id)
    run = record.request.run
    series = context.audits.run_series(tenant, run) if run is not None else None
    return html_page(render(document, record=record, series=series))


def _wants_html(accept: str) -> bool:
    named = [part.partition(";")[0].strip() for part in accept.lower().split(",")]
    if "text/html" not in named:
        return False
    return "application/json" not in named or named.index("text/html") < named.index("application/json")


def _link(context: Context, entry: results.Artifact) -> str | None:
    return context.store.link(entry.key, seconds=LINK_SECONDS, filename=_filename(entry), media_type=entry.media_type)


def _filename(entry: results.Artifact) -> str:
    return entry.name.rsplit("/", 1)[-1]
