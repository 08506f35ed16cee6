"""The service that a command talks to: one that runs, or one of our own for the length of the call."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from peelbound.client import Client
from peelbound.errors import ServiceNotFound
from peelbound.extras import require_server_extra
from peelbound.local import default_state_dir


def as_uri(place: str) -> str:
    """A URI as it is, a path made absolute with its symlinks resolved."""
    return place if "://" in place else str(Path(place).expanduser().resolve())


@contextmanager
def service_for(places: list[str], *, with_controller: bool) -> Iterator[Client]:
    """A client of the running service, or of one that is started for this call and may read just these places.

    The service of a call has a database of its own, so that it never takes up audits queued elsewhere; it shares the
    object store of the state directory, so that nothing solved before is solved again.

    Raises:
        ServerExtraMissing: none runs, and the packages to start one are not installed.
        StartFailed: it could not be started.
    """
    try:
        client = Client()
    except ServiceNotFound:
        pass
    else:
        with client:
            yield client
        return
    require_server_extra()
    for place in places:
        if "://" not in place and not Path(place).exists():
            raise click.UsageError(f"There is no {place}.")
    from peelbound.embedded import CONTROLLER, embedded
    from peelbound.service.settings import Settings

    with tempfile.TemporaryDirectory(prefix="peelbound-") as folder:
        configured = Settings()
        settings = configured.model_copy(
            update={
                "state_dir": Path(folder),
                "database_url": "",
                "store_url": configured.store_url or (default_state_dir() / "objects").as_uri(),
                "allow": [*configured.allow, *_readable(places)],
                "host": "127.0.0.1",
                "port": 0,
            }
        )
        command = CONTROLLER if with_controller else None
        with (
            embedded(settings, announce=False, controller=command) as running,
            Client(running.url, running.token) as client,
        ):
            yield client


def _readable(places: list[str]) -> list[str]:
    """The places, and where the files in them really lie: Hugging Face caches are directories of symlinks."""
    prefixes = set(places)
    for place in places:
        if "://" not in place and Path(place).is_dir():
            prefixes |= {str(file.resolve().parent) for file in Path(place).iterdir() if file.is_symlink()}
    return sorted(prefixes)
