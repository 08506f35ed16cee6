"""This machine: what may be read, room on its disks, versions of what is installed."""

import os
import reprlib
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement

from peelbound.service.doctor.findings import Finding, ok, skipped, warning, wrong
from peelbound.service.doctor.store import examine_bucket
from peelbound.service.settings import Settings
from peelbound.service.storage.s3_access import S3Access
from peelbound.service.uris import AllowList
from peelbound.workers.errors import PeelboundError

WRONG_FREE_BYTES = 1 << 30
FULL_SHARE = 0.95
"""Ray spills no more states to a disk that is fuller than this (its `local_fs_capacity_threshold`)."""

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written to


def examine_allow_list(settings: Settings) -> Iterator[Finding]:
    """Findings `allow-list`, one for each prefix."""
    part = "allow-list"
    try:
        AllowList(settings.allow)
    except PeelboundError as error:
        yield wrong(part, error.detail, error.remedy)
        return
    if not settings.allow:
        yield warning(part, "Nothing may be read: every audit is refused.", "Set PEELBOUND_ALLOW, or give --allow.")
    for prefix in settings.allow:
        if prefix.startswith("s3://"):
            found = examine_bucket(S3Access.from_settings(settings), urlsplit(prefix).netloc, part)
            yield found
            continue
        path = Path(unquote(prefix.removeprefix("file://")))
        try:
            path.stat()
        except FileNotFoundError:
            yield wrong(part, f"There is no {path} on this machine.", "Mend PEELBOUND_ALLOW, or mount what it names.")
            continue
        except OSError as error:  # a name that is too long, a directory that may not be looked into
            shown = reprlib.repr(str(path))
            yield wrong(
                part, f"{shown} cannot be looked at: {error.strerror}.", "Mend PEELBOUND_ALLOW, or the permissions."
            )
            continue
        if not os.access(path, os.R_OK):
            yield wrong(part, f"This user may not read {path}.", "Give the service's user permission to read it.")
        else:
            yield ok(part, f"{path} can be read.")


def examine_disks(settings: Settings) -> Iterator[Finding]:
    """Findings `disk`, one for each place that is written to, and `shared memory`."""
    places = {"temporary files and spilled states": Path(tempfile.gettempdir())}
    store = urlsplit(settings.resolved_store_url)
    if store.scheme == "file":
        places["object storage"] = Path(unquote(store.path))
    if not settings.database_url or not settings.store_url:
        places["the state directory"] = settings.state_dir
    for what, place in places.items():
        yield _room(what, place)
    yield _shared_memory(settings)


def _room(what: str, place: Path) -> Finding:
    there = place
    while not there.exists():
        there = there.parent
    usage = shutil.disk_usage(there)
    detail = f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.1f} are free for {what} ({place})."
    if usage.free < WRONG_FREE_BYTES:
        return wrong("disk", detail, "Free space there, or move it to a larger disk.")
    if usage.used / usage.total > FULL_SHARE:
        return warning("disk", detail, "Free space there: on a disk fuller than 95% Ray spills no states.")
    return ok("disk", detail)


def _shared_memory(settings: Settings) -> Finding:
    part = "shared memory"
    if settings.ray_address is not None:
        return skipped(part, "The nodes of the cluster have their own.")
    if not _SHARED_MEMORY.is_dir():
        return skipped(part, "This system has no /dev/shm.")
    total = shutil.disk_usage(_SHARED_MEMORY).total
    wanted = settings.ray_object_store_bytes
    detail = f"{_SHARED_MEMORY} has {total / 2**30:.1f} GiB, Ray's objects take {wanted / 2**30:.1f}."
    if total < wanted:
        remedy = (
            "Give the container more (--shm-size), or lower PEELBOUND_RAY_OBJECT_STORE_BYTES: Ray would use the disk."
        )
        return warning(part, detail, remedy)
    return ok(part, detail)


def examine_versions() -> Finding:
    """Finding `versions`: whether what is installed is what this version of Peelbound asks for."""
    part = "versions"
    try:
        needed = [Requirement(text) for text in requires("peelbound") or []]
        own = version("peelbound")
    except PackageNotFoundError:
        return skipped(part, "Peelbound runs from its sources and is not installed.")
    missing, other = [], []
    for requirement in needed:
        if not _needed(requirement):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            other.append(f"{requirement.name} {found} ({requirement.specifier} is needed)")
    install = "pip install 'peelbound[server]'"
    if other:
        return wrong(part, f"Not as needed: {', '.join(other)}.", install)
    if missing:
        return warning(part, f"Not installed: {', '.join(missing)}. A controller needs them.", install)
    return ok(part, f"Peelbound {own} and what it asks for.")


def _needed(requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("api", "server"))
