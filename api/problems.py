"""Every error response is `application/problem+json` (RFC 9457), whoever raised it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from peelbound.api.methods import METHODS
from peelbound.service.problems import as_problem
from peelbound.service.schemas.problem import Problem
from peelbound.workers.errors import PeelboundError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
CLOSE = {"Connection": "close"}
"""For an answer that comes before the body was read: the rest never is, so the connection cannot be used again."""

INTERNAL = Problem.make(
    "internal", "Internal error", 500, "The service met an error that it did not expect.", "Report when it was."
)
"""The caller learns nothing of our insides: the log holds the traceback."""

_BY_STATUS = {
    400: ("body-unreadable", "The body cannot be read", "Send one JSON document with Content-Type: application/json."),
    404: ("route-not-found", "No such route", "See /openapi.json for the routes there are."),
    405: ("method-not-allowed", "The route does not take this method", "The Allow header names those it takes."),
    413: ("body-too-large", "The body is too large", "Put large calibration data into a file and give its URI."),
}
_REMEDIES = {
    "extra_forbidden": "Remove the field; unknown fields are refused so that a misspelt option is never ignored.",
    "missing": "Add the field.",
    "model_attributes_type": "Send a JSON object with Content-Type: application/json.",
}
_MAX_ERRORS = 20


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The HTTP response that carries a problem; 429 and 503 say when to try again, 401 how to authenticate."""
    extra = {"X-Content-Type-Options": "nosniff"}
    if problem.status in (429, 503):
        extra["Retry-After"] = str((problem.model_extra or {}).get("retry_after", RETRY_SECONDS))
    if problem.status == 401:
        extra["WWW-Authenticate"] = 'Bearer realm="peelbound"'
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers={**extra, **(headers or {})},
    )


Responses = dict[int | str, dict[str, Any]]


def responses(*statuses: int) -> Responses:
    """OpenAPI responses for the problems that a route can answer; one that needs a token can also be asked too fast, or
    while the database is away, and by a name that is not ours, and a body can be no JSON.
    """
    if 401 in statuses:
        statuses = (*statuses, 421, 429, 503)
    if 413 in statuses:  # it takes a body
        statuses = (*statuses, 400)
    schema = {"$ref": "#/components/schemas/Problem"}
    titles = {
        400: "The body is not JSON",
        401: "No valid token",
        403: "The token lacks the scope",
        404: "Not found",
        409: "Not in this state",
        413: "The body is too large",
        416: "The file has no such part",
        421: "The Host header is not one of the service's names",
        422: "The request cannot be carried out; `pointer` names the field",
        429: "Too many requests, or audits, plans or streams at once: try again after Retry-After seconds",
        503: "Try again after Retry-After seconds",
        507: "The store is full",
    }
    return {
        status: {"description": titles[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted(set(statuses))
    }


def http_problem(status: int, detail: str) -> Problem:
    """The problem for what HTTP itself refuses, before a route is reached."""
    slug, title, remedy = _BY_STATUS.get(status, ("http-error", "The request failed", ""))
    return Problem.make(slug, title, status, detail, remedy)


def install(app: FastAPI) -> None:
    """Turn every exception that leaves a route of `app` into a problem response."""
    app.add_exception_handler(PeelboundError, _peelbound_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unexpected)  # of a middleware outside `Failures`


def problem_at(request: Request, problem: Problem) -> Problem:
    """The problem as one of this request."""
    return problem.model_copy(update={"instance": request.url.path})


def _peelbound_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PeelboundError)
    return problem_response(problem_at(request, as_problem(error)))


def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = error.headers
    if error.status_code == 404:
        detail = f"There is no {request.url.path}."
    elif error.status_code == 405:
        detail = f"{request.url.path} does not take {request.method}."
        headers = {"Allow": ", ".join(_methods_at(request))}
    else:
        detail = str(error.detail)
    return problem_response(problem_at(request, http_problem(error.status_code, detail)), headers)


def _methods_at(request: Request) -> list[str]:
    """What the path takes: several routes may share it, and the framework names the methods of the first only."""
    app: FastAPI = request.app
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    return [m for m, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in app.routes)]


def _unexpected(request: Request, _error: Exception) -> Response:
    return problem_response(problem_at(request, INTERNAL))


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(problem_at(request, validation_problem(error.errors())))


def validation_problem(errors: Sequence[dict[str, Any]]) -> Problem:
    """One problem for pydantic's errors: the first one's place and message up front, all of them in `errors`.

    The offending input is never echoed: it may be large or secret.
    """
    if errors[0]["type"] == "json_invalid":
        slug, title, remedy = _BY_STATUS[400]
        return Problem.make(slug, title, 400, f"The body is not JSON: {errors[0]['ctx']['error']}.", remedy)
    listed = [_listed(error) for error in errors[:_MAX_ERRORS]]
    first = listed[0]
    where = first.get("pointer") or first.get("parameter") or "the body"
    return Problem.make(
        "request-invalid" if "pointer" in first else "parameter-invalid",
        "The request is not valid",
        422,
        f"{where}: {first['detail']}",
        _REMEDIES.get(errors[0]["type"], "Correct the value; /openapi.json states what is taken."),
        first.get("pointer"),
        errors=listed,
    )


def _listed(error: dict[str, Any]) -> dict[str, str]:
    place, *path = error["loc"]
    detail = error["msg"].removeprefix("Value error, ")
    if place != "body":
        return {"parameter": ".".join(str(step) for step in path), "detail": detail}
    return {"pointer": "".join(f"/{_escaped(step)}" for step in path), "detail": detail}


def _escaped(step: object) -> str:
    """One reference token of a JSON pointer (RFC 6901)."""
    return str(step).replace("~", "~0").replace("/", "~1")
