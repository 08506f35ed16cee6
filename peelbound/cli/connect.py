"""The service that a command talks to: one that runs, or one of our own for the length of the call."""

import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from peelbound.cli.database import configured
from peelbound.client import Client
from peelbound.errors import ServiceNotFound, ServiceStarting
from peelbound.extras import require_server_extra
from peelbound.local import default_state_dir, make_private
from peelbound.service.retention import own_audits


@dataclass(frozen=True)
class Connection:
    """A client, and whether its service was started for this call and ends with it."""

    client: Client
    own: bool
    controller_log: Path | None = None
    """Where the own service's controller writes."""


@contextmanager
def service_for(places: list[str], *, with_controller: bool) -> Iterator[Connection]:
    """The running service, or one that is started for this call and may read just these places.

    Raises:
        ServiceStarting: it is about to run.
        ServerExtraMissing: none runs, and the packages to start one are not installed.
        StartFailed, PeelboundError: it could not be started.
    """
    try:
        client = Client()
    except ServiceStarting:  # it is the one to ask
        raise
    except ServiceNotFound:
        with _own_service(places, with_controller=with_controller) as connection:
            yield connection
    else:
        with client:
            yield Connection(client, own=False)


@contextmanager
def _own_service(places: list[str], *, with_controller: bool) -> Iterator[Connection]:
    """A service with a database of its own, so that it never takes up audits that were queued elsewhere.

    It shares the object store of the state directory, so that nothing solved before is solved again.
    """
    require_server_extra()
    readable = _readable(places)
    from peelbound.embedded import CONTROLLER, embedded

    environment = configured()
    click.echo("No service runs here; one is started for this call.", err=True)
    make_private(default_state_dir())
    log_path = default_state_dir() / "controller-of-calls.log"  # outlives the call, to explain a failure
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be cleaned up after as Ctrl-C is
    try:
        with own_audits.at_work(default_state_dir()), tempfile.TemporaryDirectory(prefix="peelbound-") as folder:
            settings = environment.model_copy(
                update={
                    "state_dir": Path(folder),
                    "database_url": "",
                    "store_url": environment.store_url or (default_state_dir() / "objects").as_uri(),
                    "allow": [*environment.allow, *readable],
                    "tenant_allow": {},
                    "host": "127.0.0.1",
                    "port": 0,
                    "allowed_hosts": ["127.0.0.1"],  # the environment's names are those of a server
                    "controller_metrics_port": None,  # a controller that runs here already may answer there
                    "collect_seconds": 0.0,  # the store is shared, and this database knows none of its audits
                }
            )
            command = CONTROLLER if with_controller else None
            with (
                embedded(
                    settings, announce=False, controller=command, controller_log=log_path, patient=False
                ) as running,
                Client(running.url, running.token) as client,
            ):
                yield Connection(client, own=True, controller_log=log_path)
    finally:
        signal.signal(signal.SIGTERM, before)


def _readable(places: list[str]) -> list[str]:
    """The places, and where the files in them really lie: Hugging Face caches are directories of symlinks.

    Raises:
        click.UsageError: one of them is not there, or cannot be looked at.
    """
    prefixes = set(places)
    for place in places:
        if "://" in place:
            continue
        try:
            if stat.S_ISDIR(os.stat(place).st_mode):  # noqa: PTH116 - Path.is_dir() takes some failures for an answer
                prefixes |= {str(file.resolve().parent) for file in Path(place).iterdir() if file.is_symlink()}
        except FileNotFoundError:
            raise click.UsageError(f"There is no {place}.") from None
        except OSError as error:
            raise click.UsageError(f"{place} cannot be read: {error.strerror}.") from None
    return sorted(prefixes)
