"""Where audits stand, asked for by many at once: looks that fall into the same instant are one query.

Every open event stream and every long poll looks several times a second. One by one that would be thousands of queries.
"""

import asyncio

from peelbound.api.batches import Batches
from peelbound.service.database.audits import Audits, Standing, not_found

GATHER_SECONDS = 0.05
"""How long a look waits for others to join it."""


class States:
    """Gathers looks at audits; belongs to one event loop."""

    def __init__(self, audits: Audits) -> None:
        self._looks = Batches(audits.standings, asyncio.Lock(), gather_seconds=GATHER_SECONDS)

    async def of(self, tenant: str, audit_id: str) -> Standing:
        """Where the audit stands.

        Raises:
            AuditNotFound: the tenant has no such audit.
            DatabaseUnavailable: it could not be asked.
        """
        found = await self._looks.of((tenant, audit_id))
        if found is None:
            raise not_found(audit_id)
        return found
