"""What each tenant uses, and how much it may use."""

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, literal, select, update

from peelbound.service.database.engine import Clock, database_clock, reading, writing
from peelbound.service.database.errors import TenantActiveLimit, TenantStorageLimit
from peelbound.service.database.tables import AuditRow, TenantRow
from peelbound.service.database.upsert import conflicting_insert
from peelbound.service.schemas.record import AuditState

_ACTIVE = [state for state in AuditState if not state.ended]


@dataclass(frozen=True)
class TenantLimits:
    """What one tenant may have; None is no limit.

    Attributes:
        active_audits: queued, running and cancelling audits.
        stored_bytes: bytes in object storage and of requests, as last measured; requests of audits submitted since
            then count too.
    """

    active_audits: int | None = None
    stored_bytes: int | None = None

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return self.active_audits is not None or self.stored_bytes is not None


def hold_to(connection: Connection, tenant: str, limits: TenantLimits, request_bytes: int) -> None:
    """Check the tenant with the audit that this transaction has just added; to be called before it commits.

    The tenant's row is locked, so that of two transactions that add the last permitted audit, the later one sees the
    other's. Its request is added to what the tenant stores: until the next measurement a tenant could otherwise submit
    as many large ones as it likes.

    Raises:
        TenantActiveLimit: it has more audits at work or waiting than it may.
        TenantStorageLimit: it stores as much as it may, or more.
    """
    if not limits.any:
        return
    connection.execute(conflicting_insert(connection, TenantRow).values(tenant=tenant).on_conflict_do_nothing())
    stored = (
        connection.scalars(
            update(TenantRow)
            .where(TenantRow.tenant == tenant)
            .values(stored_bytes=TenantRow.stored_bytes + request_bytes)
            .returning(TenantRow.stored_bytes)
        ).one()
        - request_bytes
    )
    if limits.stored_bytes is not None and stored >= limits.stored_bytes:
        raise TenantStorageLimit(
            f"{stored} bytes are stored for the tenant, of {limits.stored_bytes} that it may use.",
            remedy="Delete audits that are no longer needed, and have storage collected: the sum is measured anew "
            "by each collection.",
        )
    if limits.active_audits is None:
        return
    some = (
        select(literal(1))
        .where(AuditRow.tenant == tenant, AuditRow.state.in_(_ACTIVE))
        .limit(limits.active_audits + 1)
        .subquery()
    )
    if connection.scalars(select(func.count()).select_from(some)).one() > limits.active_audits:
        raise TenantActiveLimit(
            f"The tenant already has {limits.active_audits} audits that wait or run, as many as it may have.",
            remedy="Submit again when some of them have ended, or cancel some.",
            retry_after=30,
        )


class Tenants:
    """What was measured of each tenant."""

    def __init__(self, engine: Engine, *, clock: Clock = database_clock) -> None:
        self._engine = engine
        self._clock = clock

    def measured(self, tenant: str, object_bytes: int) -> None:
        """Note how much the tenant stores: these bytes of objects, and the requests of its audits."""
        row = TenantRow.tenant == tenant
        with writing(self._engine) as connection:
            connection.execute(conflicting_insert(connection, TenantRow).values(tenant=tenant).on_conflict_do_nothing())
            connection.execute(select(TenantRow.tenant).where(row).with_for_update())
            # Only now: of the submissions that hold the row, each is in the sum or adds itself after us.
            requests = connection.scalar(select(func.sum(AuditRow.request_bytes)).where(AuditRow.tenant == tenant))
            connection.execute(
                update(TenantRow)
                .where(row)
                .values(stored_bytes=object_bytes + int(requests or 0), measured_at=self._clock(connection))
            )

    def stored_bytes(self, tenant: str) -> int:
        """What was measured last, and the requests since then; 0 before."""
        with reading(self._engine) as connection:
            return connection.scalar(select(TenantRow.stored_bytes).where(TenantRow.tenant == tenant)) or 0
