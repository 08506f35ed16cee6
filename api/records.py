"""Audits as they are, for requests that ask for one: those of one moment are read by one query."""

import asyncio

from fastapi.concurrency import run_in_threadpool

from peelbound.api.batches import Batches
from peelbound.service.database.audits import Audits
from peelbound.service.schemas.record import AuditRecord


class Records:
    """Gathers readers of single audits; belongs to one event loop."""

    def __init__(self, audits: Audits, turn: asyncio.Lock) -> None:
        """Bind; `turn` is shared with those who ask before or after (see `Batches`)."""
        self._audits = audits
        self._small = Batches(audits.small, turn)

    async def of(self, tenant: str, audit_id: str) -> AuditRecord:
        """One audit.

        Raises:
            AuditNotFound: the tenant has no such audit.
            DatabaseUnavailable: it could not be asked.
        """
        found = await self._small.of((tenant, audit_id))
        if found is None:  # or its request is large, and read by itself, so that nobody waits for another's
            return await run_in_threadpool(self._audits.get, tenant, audit_id)
        return found
