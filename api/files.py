"""A stored file as an answer: whole or in parts, under a tag that is its checksum."""

from collections.abc import Callable
from pathlib import Path

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from peelbound.api.problems import problem_at, problem_response
from peelbound.service.schemas.problem import Problem


def tag(sha256: str) -> str:
    """The strong `ETag` of a file with this checksum, the same on every replica and for as long as it is kept."""
    return f'"{sha256}"'


def is_known(if_none_match: str | None, sha256: str) -> bool:
    """Whether whoever asks has the file already, by its `If-None-Match`."""
    named = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return "*" in named or tag(sha256) in named


def not_changed(sha256: str) -> Response:
    """The answer to whoever has the file already."""
    return Response(status_code=304, headers={"ETag": tag(sha256)})


class StoredFile(FileResponse):
    """Serves a file once, then lets it be cleaned up, however the answer ends.

    Args:
        path: where it lies.
        sha256: of its content.
        bytes_: its length.
        media_type, filename: told with it.
        clean: called at the end.
    """

    def __init__(
        self, path: Path, *, sha256: str, bytes_: int, media_type: str, filename: str, clean: Callable[[], None]
    ) -> None:
        super().__init__(
            path,
            media_type=media_type,
            filename=filename,
            headers={"ETag": tag(sha256), "X-Content-Type-Options": "nosniff"},
        )
        self._bytes, self._clean = bytes_, clean

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve (ASGI). What the framework would say in plain text of a `Range` becomes a problem."""
        refused = False

        async def told(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused = True
                await _refusal(Request(scope), message["status"], self._bytes)(scope, receive, send)
            elif not refused:
                await send(message)

        try:
            await super().__call__(scope, receive, told)
        finally:
            with anyio.CancelScope(shield=True):  # also when the client has gone
                await run_in_threadpool(self._clean)


def head(*, sha256: str, bytes_: int, media_type: str, filename: str) -> Response:
    """The answer to HEAD, for which the file need not be fetched."""
    file = StoredFile(
        Path(), sha256=sha256, bytes_=bytes_, media_type=media_type, filename=filename, clean=lambda: None
    )
    return Response(headers={**file.headers, "Content-Length": str(bytes_)})


def _refusal(request: Request, status: int, bytes_: int) -> Response:
    problem = Problem.make(
        "range-invalid",
        "The file has no such part",
        status,
        f"The Range header is {request.headers.get('range', '')!r}; the file has {bytes_} bytes.",
        "Ask for bytes that there are, as in bytes=0-99, or leave the header out.",
    )
    headers = {"Content-Range": f"bytes */{bytes_}"} if status == 416 else {}
    return problem_response(problem_at(request, problem), headers)
