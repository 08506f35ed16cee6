"""The digest of a checkpoint's content, remembered as long as its files are demonstrably the same.

Reading a whole checkpoint to learn its digest costs a walk. The first walk of an audit computes it on the way; the
versions of the files (stat or etag) then stand for it, but never those of files that were written just now.
"""

import json
import logging
from collections.abc import Callable

from peelbound.service.storage.base import ObjectStore
from peelbound.workers.errors import CheckpointChanged, ObjectCorrupt, ObjectMissing
from peelbound.workers.keys import canonical
from peelbound.workers.source import ByteSource

log = logging.getLogger(__name__)


class Digests:
    """The digest of one checkpoint."""

    def __init__(self, store: ObjectStore, tenant: str, source: ByteSource, use: Callable[[str], None]) -> None:
        """Bind to the files of a checkpoint, as a tenant sees them; `use` is told of the digest's place."""
        memo = source.memo_key()
        self._store = store
        self._key = None if memo is None else f"tenants/{tenant}/digests/{memo}.json"
        if memo is not None:
            use(f"tenants/{tenant}/digests/{memo}")

    def find(self) -> str | None:
        """The digest, if these very files were read before."""
        if self._key is None:
            return None
        try:
            digest: str = json.loads(self._store.get(self._key))["sha256"]
        except ObjectMissing:
            return None
        except ObjectCorrupt as error:
            log.warning("reading the checkpoint again: %s", error)
            return None
        return digest

    def keep(self, digest: str) -> None:
        """Remember the digest of these files."""
        if self._key is not None:
            self._store.put(self._key, canonical({"sha256": digest}), media_type="application/json")

    @staticmethod
    def verify(expected: str, read: str | None) -> None:
        """Refuse when the bytes that were read since are not those of the digest.

        Raises:
            CheckpointChanged: the files changed behind an unchanged version.
        """
        if read is not None and read != expected:
            raise CheckpointChanged(
                f"The checkpoint's content is {read[:12]}…, but it was {expected[:12]}… when the audit began.",
                remedy="Audit a checkpoint that nobody writes to, for instance a copy.",
                pointer="/checkpoint",
            )
