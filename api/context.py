"""What the routes work with: the service's parts, opened once per process."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from peelbound.api.callers import Callers
from peelbound.api.draining import Draining
from peelbound.api.oidc import IdentityProvider
from peelbound.api.places import Places
from peelbound.api.records import Records
from peelbound.api.states import States
from peelbound.service.database.audits import Audits
from peelbound.service.database.leases import Leases
from peelbound.service.database.log import Log
from peelbound.service.database.schema import open_database
from peelbound.service.database.tenants import TenantLimits
from peelbound.service.database.tokens import Tokens
from peelbound.service.database.webhooks import Webhooks
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.storage.open import open_store
from peelbound.service.uris import AllowList
from peelbound.workers.errors import PeelboundError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """The database, the store and the settings of one API process."""

    settings: Settings
    engine: Engine
    audits: Audits
    states: States
    records: Records
    callers: Callers
    leases: Leases
    tokens: Tokens
    webhooks: Webhooks
    log: Log
    provider: IdentityProvider | None
    store: ObjectStore
    draining: Draining
    streams: Places
    """Event streams and long polls."""

    def allow(self, tenant: str) -> AllowList:
        """What a tenant may have read."""
        return AllowList(self.settings.of_tenant(tenant).allow)

    @classmethod
    def open(cls, settings: Settings, draining: Draining) -> "Context":
        """Connect to a database whose schema is this version's.

        Args:
            settings: of the process.
            draining: whether it is about to end.

        Raises:
            DatabaseUnavailable: it did not answer for as long as the settings say.
            PeelboundError: the settings or the schema are wrong.
        """
        try:
            AllowList.check(settings)
            engine = open_database(settings.resolved_database_url, wait_seconds=settings.database_wait_seconds)
        except PeelboundError as error:
            logger.error("%s: %s", error.title, error)  # the server's own words are a traceback
            raise
        audits = Audits(engine, limits=TenantLimits(settings.tenant_active_audits, settings.tenant_stored_bytes))
        tokens, turn = Tokens(engine), asyncio.Lock()
        return cls(
            settings=settings,
            engine=engine,
            audits=audits,
            states=States(audits),
            records=Records(audits, turn),
            callers=Callers(tokens, turn),
            leases=Leases(
                engine,
                lease_seconds=settings.lease_seconds,
                max_attempts=settings.max_attempts,
                tenant_running=settings.tenant_running_audits,
            ),
            tokens=tokens,
            webhooks=Webhooks(engine),
            log=Log(engine),
            provider=IdentityProvider(settings) if settings.oidc_issuer else None,
            store=open_store(settings),
            draining=draining,
            streams=Places("event streams and long polls", settings.tenant_open_streams),
        )

    def close(self) -> None:
        """Give the database's connections back."""
        self.engine.dispose()


# Not `def`: what FastAPI depends on by a plain function goes through a thread, and this has nothing to wait for.
async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Service = Annotated[Context, Depends(_context)]
