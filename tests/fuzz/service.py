"""The real API on a port of its own, with somebody who ends every audit soon after it is submitted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn

from peelbound.api.app import create_app
from peelbound.api.context import Context
from peelbound.service.settings import Settings
from tests.acting_controller import ActingController

ALL = frozenset({"read", "write", "admin"})


@contextmanager
def served(directory: Path) -> Iterator[tuple[str, str]]:
    """Address and token of a service that takes any checkpoint below /data or s3://models/."""
    settings = Settings(state_dir=directory, allow=["/data", "s3://models/"], requests_per_second=0)
    app = create_app(settings)
    app.openapi()  # made once and kept; on a busy machine it takes longer than schemathesis waits for it
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    stop = threading.Event()
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        while not server.started:
            assert serving.is_alive()
            stop.wait(0.05)
        context: Context = app.state.context
        token = context.tokens.create("default", "fuzz", ALL)
        ending = threading.Thread(target=_end_audits, args=(context, stop))
        ending.start()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", token
        stop.set()
        ending.join()
    finally:
        stop.set()
        server.should_exit = True
        serving.join()


def _end_audits(context: Context, stop: threading.Event) -> None:
    """So that streams of events end and reports are there."""
    controller = ActingController(context.engine, context.store)
    while not stop.wait(0.05):
        claim = controller.leases.claim("fuzz")
        if claim is not None:
            with suppress(AssertionError):  # it was cancelled meanwhile
                controller.publish(claim, table=b"1")
