"""Where audits stand, asked for by many at once: looks that fall into the same instant are one query.

Every open event stream and every long poll looks several times a second. One by one that would be thousands of queries.
"""

import asyncio

from fastapi.concurrency import run_in_threadpool

from peelbound.service.database.audits import Audits, Standing, not_found

GATHER_SECONDS = 0.05
"""How long a look waits for others to join it."""

_Key = tuple[str, str]


class States:
    """Gathers looks at audits; belongs to one event loop."""

    def __init__(self, audits: Audits) -> None:
        self._audits = audits
        self._asked: dict[_Key, asyncio.Future[Standing | None]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def of(self, tenant: str, audit_id: str) -> Standing:
        """Where the audit stands.

        Raises:
            AuditNotFound: the tenant has no such audit.
            DatabaseUnavailable: it could not be asked.
        """
        if not self._asked:
            task = asyncio.create_task(self._answer())
            self._answering.add(task)  # the loop itself holds tasks weakly
            task.add_done_callback(self._answering.discard)
        key = tenant, audit_id
        if key not in self._asked:
            self._asked[key] = asyncio.get_running_loop().create_future()
        # Several may wait for the same answer: one that hangs up must not take it from the others.
        found = await asyncio.shield(self._asked[key])
        if found is None:
            raise not_found(audit_id)
        return found

    async def _answer(self) -> None:
        await asyncio.sleep(GATHER_SECONDS)
        asked, self._asked = self._asked, {}
        try:
            found = await run_in_threadpool(self._audits.standings, list(asked))
        except Exception as error:  # whoever asked handles it
            for future in asked.values():
                future.set_exception(error)
                future.exception()  # it may be that nobody is left who asks
            return
        for key, future in asked.items():
            future.set_result(found.get(key))
