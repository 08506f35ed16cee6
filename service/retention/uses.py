"""What an attempt at an audit uses of the results by content.

Each result is announced before it is looked for. One that a collection has condemned is spared first, so that from then
on it is either there to stay or gone already; `service/database/retention.py` says why that is enough. The names are
published with the audit, which keeps its results for as long as it exists itself.
"""

from pydantic import TypeAdapter

from peelbound.service.database.retention import Retention
from peelbound.service.storage.base import ObjectStore
from peelbound.workers.errors import ObjectCorrupt, ObjectMissing

LIST = "results.json"
"""Lies beside the manifest that was published."""

_NAMES = TypeAdapter(list[str])
_SUFFIXES = (".json", ".safetensors")


def name_of(key: str) -> str | None:
    """The result that an object is, or a part of; None for what is none."""
    for suffix in _SUFFIXES:
        if key.endswith(suffix):
            return key.removesuffix(suffix)
    return None


def objects_of(name: str) -> tuple[str, ...]:
    """The objects that a result may be, in the order in which they are to be deleted: a solution without measurements
    counts as unsolved, so those go first."""
    return tuple(f"{name}{suffix}" for suffix in _SUFFIXES)


class Uses:
    """The uses of one attempt."""

    def __init__(self, retention: Retention, tenant: str) -> None:
        """Begin, with the attempt claimed already.

        Args:
            retention: the database.
            tenant: whose attempt it is.
        """
        self._retention, self._tenant = retention, tenant
        self._condemned = retention.condemned(tenant)
        self._names: set[str] = set()

    def __call__(self, name: str) -> None:
        """Announce that a result is about to be looked for or made."""
        self._names.add(name)
        if name in self._condemned:
            self._retention.spare(self._tenant, name)
            self._condemned.discard(name)

    def names(self) -> list[str]:
        """What was announced, sorted."""
        return sorted(self._names)


def keep_list(store: ObjectStore, folder: str, names: list[str]) -> None:
    """Write down what an attempt used, beside what it is about to publish."""
    store.put(f"{folder}/{LIST}", _NAMES.dump_json(names), media_type="application/json")


def read_list(store: ObjectStore, manifest_key: str) -> list[str]:
    """What a published audit used; nothing where it does not say, as audits of earlier versions do not.

    Raises:
        StorageUnavailable, StorageDenied: it may have said, and cannot be asked now.
    """
    try:
        return _NAMES.validate_json(store.get(f"{manifest_key.rpartition('/')[0]}/{LIST}"))
    except (ObjectMissing, ObjectCorrupt):
        return []
