"""The whole service on this machine: the API in a thread of this process, the controller as a child."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from peelbound.api.app import create_app
from peelbound.api.draining import Draining
from peelbound.local import PRIVATE_UMASK, StartFailed, ensure_secret, holding, private_files, publish_url
from peelbound.service.database.schema import open_database
from peelbound.service.database.tokens import Tokens
from peelbound.service.settings import Settings
from peelbound.service.storage.open import open_store
from peelbound.service.uris import AllowList

log = logging.getLogger(__name__)

TENANT = "default"
CONTROLLER = [sys.executable, "-P", "-m", "peelbound.leash", "peelbound.service.controller"]
STOP_SECONDS = 15.0
"""What a controller gets to hand its audit back before it is killed."""
LOG_BYTES = 10_000_000
"""A controller's log larger than this is set aside when a service starts."""
STABLE_SECONDS = 60.0
"""A controller that lived this long before it ended is started again without delay."""


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
) -> Iterator[Running]:
    """Run the service until the context is left; nothing of it is left behind.

    Args:
        settings: `state_dir` must be absolute; port 0 takes a free port.
        announce: whether other processes of this user shall find it by its state directory.
        controller: the command that runs audits; None runs none.
        controller_log: where it writes; None: `controller.log` in the state directory.

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
            with _serving(settings, listener), _supervised(settings, controller, log_path):
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


@contextmanager
def _supervised(settings: Settings, command: list[str] | None, log_path: Path) -> Iterator[None]:
    if command is None:
        yield
        return
    log_path.parent.mkdir(parents=True, exist_ok=True)
    if log_path.exists() and log_path.stat().st_size > LOG_BYTES:
        log_path.replace(log_path.with_suffix(".old.log"))
    stop = threading.Event()
    with private_files():
        log_path.touch()
    thread = threading.Thread(target=_supervise, args=(settings, command, log_path, stop), name="supervisor")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _supervise(settings: Settings, command: list[str], log_path: Path, stop: threading.Event) -> None:
    """Keep one controller alive until told to stop; one that keeps dying is started ever more slowly."""
    pause = 0.5
    # What the settings leave at its default must not come from our own environment instead.
    configured = {f"PEELBOUND_{name.upper()}" for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name.upper() not in configured}
    while not stop.is_set():
        began = time.monotonic()
        with log_path.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                cwd=settings.state_dir,
                env=environment | settings.environment(),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                umask=PRIVATE_UMASK,
                start_new_session=True,  # Ctrl-C is for us; the controller is told in order
            )
        while process.poll() is None and not stop.wait(0.1):
            pass
        if stop.is_set():
            _stop(process)
            return
        log.warning("the controller ended with status %s and is started again; see %s", process.returncode, log_path)
        pause = 0.5 if time.monotonic() - began > STABLE_SECONDS else min(2 * pause, 30.0)
        assert process.stdin is not None
        process.stdin.close()
        stop.wait(pause)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
