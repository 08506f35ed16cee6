"""The whole service on this machine: the API in a thread of this process, the controller as a child."""

import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn

from peelbound.api.app import create_app
from peelbound.api.draining import Draining
from peelbound.local import StartFailed, ensure_secret, holding, private_files, publish_url
from peelbound.service.database.engine import make_engine
from peelbound.service.database.leases import Claim, Leases
from peelbound.service.database.schema import open_database
from peelbound.service.database.tokens import Tokens
from peelbound.service.retention.own_audits import TENANT
from peelbound.service.schemas.problem import Problem
from peelbound.service.settings import Settings
from peelbound.service.storage.open import open_store
from peelbound.service.uris import AllowList
from peelbound.supervisor import supervised
from peelbound.workers.errors import PeelboundError

log = logging.getLogger(__name__)

CONTROLLER = [sys.executable, "-P", "-m", "peelbound.leash", "peelbound.service.controller"]
FAIL_AGAIN_SECONDS = 0.2
"""How often to look for audits where no controller stays up."""
UNWELL_SECONDS = 5.0
"""Until the next look where the database failed at one."""


@dataclass(frozen=True)
class Running:
    """A service that answers.

    Attributes:
        url: its address.
        token: for programs; scopes read, write and admin.
        link: for a browser; carries a token that may only read.
        controller_log: where the controller writes.
    """

    url: str
    token: str
    link: str
    controller_log: Path


@contextmanager
def embedded(
    settings: Settings,
    *,
    announce: bool = True,
    controller: list[str] | None = CONTROLLER,
    controller_log: Path | None = None,
    patient: bool = True,
) -> Iterator[Running]:
    """Run the service until the context is left; nothing of it is left behind.

    Args:
        settings: `state_dir` must be absolute; port 0 takes a free port.
        announce: whether other processes of this user shall find it by its state directory.
        controller: the command that runs audits; None runs none.
        controller_log: where it writes; None: `controller.log` in the state directory.
        patient: whether audits wait while controllers keep ending as soon as they are started, for somebody to mend
            that; otherwise they fail with the reason (`controller-ended`).

    Raises:
        StateDirBusy: another service runs on the state directory.
        StartFailed: the address is taken, or the API did not come up.
        PeelboundError: the settings are wrong, or the database cannot be used.
    """
    with holding(settings.state_dir):
        with private_files():
            token, reading_token = _prepare(settings)
        with _listening(settings.host, settings.port) as listener:
            host, port = _authority(settings, listener)
            if host not in settings.allowed_hosts:  # what is published is answered
                settings = settings.model_copy(update={"allowed_hosts": [*settings.allowed_hosts, host]})
            url = f"http://{host}:{port}"
            log_path = controller_log or settings.state_dir / "controller.log"
            give_up = None if patient else partial(_fail_all, settings)
            with (
                _serving(settings, listener),
                nullcontext() if controller is None else supervised(settings, controller, log_path, give_up),
            ):
                if announce:
                    publish_url(settings.state_dir, url)
                yield Running(url, token, f"{url}/?token={reading_token}", log_path)


def _prepare(settings: Settings) -> tuple[str, str]:
    """Bring a SQLite file up to date, and the tokens in it in line with ours; answers the full and the reading one.

    What is wrong with the settings is found here and not in the threads and processes that are started next.
    """
    AllowList.check(settings)
    open_store(settings)
    token = ensure_secret(settings.state_dir / "token")
    reading_token = ensure_secret(settings.state_dir / "link-token")
    wait = settings.database_wait_seconds
    engine = open_database(settings.resolved_database_url, wait_seconds=wait)
    try:
        tokens = Tokens(engine)
        tokens.ensure(token, TENANT, "embedded", frozenset({"read", "write", "admin"}))
        tokens.ensure(reading_token, TENANT, "browser", frozenset({"read"}))
    finally:
        engine.dispose()
    return token, reading_token


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise StartFailed(f"Cannot listen on {host} port {port}: {error.strerror}.") from error
    with listener:
        yield listener


def _authority(settings: Settings, listener: socket.socket) -> tuple[str, int]:
    """Host and port under which the service answers: a wildcard address is not one."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not bound to
        return settings.allowed_hosts[-1], port
    return f"[{host}]" if ":" in host else host, port


@contextmanager
def _serving(settings: Settings, listener: socket.socket) -> Iterator[None]:
    draining = Draining()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, draining),
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,  # the link's token is part of a request line
            timeout_graceful_shutdown=2,
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="api")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise StartFailed("The API did not start; its log says why.")
            time.sleep(0.01)
        yield
    finally:
        draining.begin()  # event streams would go on for as long as their audits
        server.should_exit = True
        thread.join()


def _fail_all(settings: Settings, why: str, stop: threading.Event) -> None:
    """End each audit that comes in, until told to stop: nothing here will ever work on it."""
    problem = Problem.make("controller-ended", "No controller stays up", 500, why, "Mend that, and submit it again.")
    engine = make_engine(settings.resolved_database_url)
    try:
        leases = Leases(engine, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts)
        claim: Claim | None = None
        while not stop.is_set():
            pause = FAIL_AGAIN_SECONDS
            try:
                while (claim := claim or leases.claim("supervisor")) is not None:
                    leases.fail(claim, problem)
                    claim = None
            except (
                PeelboundError
            ) as error:  # a full disk, or a database that is busy: whoever waits is still to be told
                log.warning("an audit that nothing works on cannot be ended yet: %s", error)
                pause = UNWELL_SECONDS
            stop.wait(pause)
    finally:
        engine.dispose()
