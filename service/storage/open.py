"""Which object store the settings ask for."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.storage.directory import DirectoryStore
from peelbound.service.storage.s3 import S3Store
from peelbound.service.storage.s3_access import S3Access
from peelbound.workers.errors import UserError


def open_store(settings: Settings) -> ObjectStore:
    """The store at `store_url`; nothing is read or written yet (`ObjectStore.check` does).

    Raises:
        UserError: the URL is neither `file:///directory` nor `s3://bucket/prefix` (slug ``settings-invalid``).
    """
    url = settings.resolved_store_url
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise _invalid(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        return DirectoryStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return S3Store(parts.netloc, parts.path.strip("/"), S3Access.from_settings(settings))
    raise _invalid(url)


def _invalid(url: str) -> UserError:
    return UserError(
        f"PEELBOUND_STORE_URL is {url!r}.",
        remedy="Give file:///directory or s3://bucket/prefix.",
        slug="settings-invalid",
    )
