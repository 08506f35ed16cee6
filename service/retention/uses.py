"""What an attempt at an audit uses of the results by content.

Each result is announced before it is looked for. One that a collection has condemned is spared first, so that from then
on it is either there to stay or gone already; `service/database/retention.py` says why that is enough. The names are
published with the audit, which keeps its results for as long as it exists itself.
"""

from collections.abc import Iterable, Set

from pydantic import TypeAdapter, ValidationError

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


class ListsDamaged(Exception):
    """Published audits whose lists cannot be read: nobody knows what they used, so nothing may be taken for unused.

    Attributes:
        audits: their ids.
    """

    def __init__(self, audits: list[str]) -> None:
        super().__init__(f"{LIST} is damaged in the audits {', '.join(audits)}")
        self.audits = audits


class Lists:
    """The lists that audits have published, each read once: what is published never changes.

    Audits share most of their results, so their names are kept once and not by audit. What an audit used that is
    deleted meanwhile counts as used until the next collection.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._read: set[str] = set()
        self._names: set[str] = set()

    def used(self, manifest_keys: Iterable[str]) -> Set[str]:
        """What the audits with these manifests used, and those asked for before; those of earlier versions have no list
        and say nothing.

        Raises:
            ListsDamaged: some have a list that cannot be read.
            StorageUnavailable, StorageDenied: nobody can say now.
        """
        damaged: list[str] = []
        for key in manifest_keys:
            if key not in self._read:
                try:
                    self._names.update(_read_list(self._store, key))
                except (ObjectCorrupt, ValidationError):
                    damaged.append(key.split("/")[-3])  # …/audits/{audit}/{attempt}/manifest.json
                    continue
                self._read.add(key)
        if damaged:
            raise ListsDamaged(damaged)
        return self._names


def _read_list(store: ObjectStore, manifest_key: str) -> list[str]:
    try:
        return _NAMES.validate_json(store.get(f"{manifest_key.rpartition('/')[0]}/{LIST}"))
    except ObjectMissing:
        return []
