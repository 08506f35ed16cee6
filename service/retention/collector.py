"""The collection of a tenant's storage: expired audits, files of no audit, and results that no audit has used.

Results are collected in two phases, a grace period apart: what nobody has used is condemned, and what is condemned and
unused still is deleted by a later collection. `service/database/retention.py` says why that takes nothing away from a
running audit.
"""

import logging
from collections.abc import Iterator, Set
from dataclasses import dataclass, fields
from datetime import timedelta

from ulid import ULID

from peelbound.service.database.audits import Audits
from peelbound.service.database.errors import AuditNotEnded, AuditNotFound
from peelbound.service.database.log import Actor
from peelbound.service.database.retention import Retention
from peelbound.service.database.tenants import Tenants
from peelbound.service.retention.erasing import erase
from peelbound.service.retention.uses import Lists, ListsDamaged, name_of, objects_of
from peelbound.service.storage.base import ObjectInfo, ObjectStore
from peelbound.workers.errors import ObjectCorrupt

log = logging.getLogger(__name__)

_RESULTS = ("results", "digests")
"""Folders of what is found again by what it depends on."""


@dataclass(frozen=True)
class Collected:
    """What a collection did, or would do.

    Attributes:
        audits_expired: audits whose time was over.
        files_deleted: objects that lay in an audit's folder and were not published, or whose audit was gone.
        results_condemned: results found unused, to be deleted when their grace is over.
        results_deleted: results that were condemned long enough ago and still unused.
        bytes_freed: of all that was deleted.
    """

    audits_expired: int = 0
    files_deleted: int = 0
    results_condemned: int = 0
    results_deleted: int = 0
    bytes_freed: int = 0

    def __add__(self, other: "Collected") -> "Collected":
        return Collected(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Collector:
    """Collects.

    Args:
        retention, audits, tenants: the database.
        store: object storage.
        keep_seconds: how long audits are kept after their end, unless their tenant has its own time; None: for ever.
        grace: how long results stay after nobody uses them, and files after their audit is gone.
    """

    def __init__(
        self,
        retention: Retention,
        audits: Audits,
        tenants: Tenants,
        store: ObjectStore,
        *,
        keep_seconds: float | None,
        grace: timedelta,
    ) -> None:
        self._retention, self._audits, self._tenants, self._store = retention, audits, tenants, store
        self._keep_seconds, self._grace = keep_seconds, grace

    def collect(self, tenant: str) -> Collected:
        """Collect a tenant's storage, its results only where every published audit says what it used; then measure it.

        Raises:
            DatabaseUnavailable, StorageUnavailable, StorageDenied: what was not done is done by the next collection.
        """
        collected = self._collect(tenant)
        self._tenants.measured(tenant, self._store.bytes_under(f"tenants/{tenant}/"))
        return collected

    def _collect(self, tenant: str) -> Collected:
        collected = self._expire(tenant) + self._sweep_files(tenant)
        lists = Lists(self._store)
        try:
            return collected + self._sweep_results(tenant, lists) + self._condemn(tenant, lists)
        except ListsDamaged as error:
            _complain(tenant, error)
            return collected

    def would_collect(self, tenant: str) -> Collected:
        """What `collect` would do now, changing nothing; expired audits still count as users of their results."""
        due = {condemned.name for condemned in self._retention.due(tenant, self._grace)}
        stale = list(self._stale_files(tenant))
        try:
            unused = self._unused(tenant, Lists(self._store))
        except ListsDamaged as error:
            _complain(tenant, error)
            unused = {}
        going = [info for name in due & set(unused) for info in unused[name]]
        return Collected(
            audits_expired=len(self._retention.expired(tenant, self._keep_seconds)),
            files_deleted=len(stale),
            results_condemned=len(set(unused) - self._retention.condemned(tenant)),
            results_deleted=len(due & set(unused)),
            bytes_freed=sum(info.bytes for info in [*stale, *going]),
        )

    def _expire(self, tenant: str) -> Collected:
        gone = freed = 0
        for audit_id in self._retention.expired(tenant, self._keep_seconds):
            freed += sum(info.bytes for info in self._store.list(f"tenants/{tenant}/audits/{audit_id}/"))
            try:
                erase(self._audits, self._store, tenant, audit_id, by=_actor())
            except (AuditNotFound, AuditNotEnded):  # somebody was quicker
                continue
            gone += 1
        return Collected(audits_expired=gone, bytes_freed=freed)

    def _sweep_files(self, tenant: str) -> Collected:
        stale = list(self._stale_files(tenant))
        for info in stale:
            self._store.delete(info.key)
        return Collected(files_deleted=len(stale), bytes_freed=sum(info.bytes for info in stale))

    def _stale_files(self, tenant: str) -> Iterator[ObjectInfo]:
        """Files of audits that are gone, and those that an audit which has ended did not publish.

        Listed before the audits are looked up: an audit's row is there before its first file. The audits of a service
        that was started for one call have their rows elsewhere, so a folder without a row must be old, by its ULID.
        """
        top = f"tenants/{tenant}/audits/"
        files = [info for info in self._store.list(top) if info.key.count("/") > top.count("/")]
        standing = self._retention.standing(tenant, {_audit_of(info, top) for info in files})
        newest = self._retention.now() - self._grace
        for info in files:
            audit_id = _audit_of(info, top)
            if audit_id not in standing:
                if _is_older(audit_id, newest.timestamp()):
                    yield info
                continue
            ended, manifest_key = standing[audit_id]
            if ended and not (manifest_key and info.key.startswith(manifest_key.rpartition("/")[0] + "/")):
                yield info

    def _sweep_results(self, tenant: str, lists: Lists) -> Collected:
        due = self._retention.due(tenant, self._grace)
        if not due:
            return Collected()
        used = self._used(tenant, lists)  # after `due`: what has ended since then has published
        deleted = freed = 0
        for condemned in due:
            if condemned.name in used:
                self._retention.spare(tenant, condemned.name)
                continue
            with self._retention.deleting(tenant, condemned) as held:
                if not held:
                    continue
                for key in objects_of(condemned.name):
                    info = _found(self._store, key)
                    if info is not None:
                        self._store.delete(key)
                        freed += info.bytes
            deleted += 1
        return Collected(results_deleted=deleted, bytes_freed=freed)

    def _condemn(self, tenant: str, lists: Lists) -> Collected:
        fresh = set(self._unused(tenant, lists)) - self._retention.condemned(tenant)
        self._retention.condemn(tenant, fresh)
        self._retention.stamp(tenant)
        return Collected(results_condemned=len(fresh))

    def _unused(self, tenant: str, lists: Lists) -> dict[str, list[ObjectInfo]]:
        """The results that no audit has used, each with its objects."""
        used = self._used(tenant, lists)
        unused: dict[str, list[ObjectInfo]] = {}
        for folder in _RESULTS:
            for info in self._store.list(f"tenants/{tenant}/{folder}/"):
                name = name_of(info.key)
                if name is not None and name not in used:
                    unused.setdefault(name, []).append(info)
        return unused

    def _used(self, tenant: str, lists: Lists) -> Set[str]:
        return lists.used(self._retention.published(tenant))  # asked each time: more may have been published


def _complain(tenant: str, error: ListsDamaged) -> None:
    log.error(
        "%s: no result is collected, since %s. Restore these objects, or delete the audits.",
        tenant,
        error,
        extra={"tenant": tenant, "audits": error.audits},
    )


def _found(store: ObjectStore, key: str) -> ObjectInfo | None:
    try:
        return store.info(key)
    except ObjectCorrupt:
        return ObjectInfo(key, 0, "")


def _audit_of(info: ObjectInfo, top: str) -> str:
    return info.key.removeprefix(top).partition("/")[0]


def _is_older(audit_id: str, seconds: float) -> bool:
    try:
        return ULID.from_str(audit_id).timestamp < seconds
    except ValueError:
        return False  # nobody's folder: not ours to delete


def _actor() -> Actor:
    return Actor("retention", "retention", str(ULID()))
