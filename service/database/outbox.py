"""What a deliverer needs of the database: take a message that is due, and write down what came of sending it.

As with audits, a claim is a lease with a fence: the lease is `due_at`, which a claim pushes on, the fence is the number
of attempts, which it increases. A deliverer that dies leaves a lease that runs out, and another sends the message
again: at least once, under the same id.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    update,
)

from peelbound.service.database.engine import Clock, database_clock, reading, writing
from peelbound.service.database.tables import DeliveryAttemptRow, DeliveryRow, WebhookRow
from peelbound.service.database.webhooks import disable
from peelbound.service.schemas.webhook import TEST, DeliveryState, DisabledBecause

MOST_FAILURES = 14
"""A message whose attempts have failed so often is not sent by itself again; see `backoff`."""
KEPT = timedelta(days=30)
"""How long deliveries that have ended, and their log, are kept."""

_FIRST_SECONDS = 5.0
_FACTOR = 3.0
_LONGEST_SECONDS = 4 * 3600.0
_JITTER = 0.2
_GONE = 410
_TRIES = 8
"""How many endpoints a claim tries whose messages somebody has locked who writes down an answer, or redelivers."""
_TURN = 0x706F7374
"""Key of the advisory lock under which claims are made."""


def backoff(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row, at least one.

    5 s, 15 s, 45 s, … three times as long each time up to 4 h: 13 waits, a day (24.6 h) in all. Each is up to a fifth
    longer or shorter by chance, so that messages that failed together do not come back together.

    Args:
        failures: 1, 2, ….
        chance: in [0, 1).
    """
    return _nominal(failures) * (1 + _JITTER * (2 * chance - 1))


def next_try(failures: int, chance: float, asked_seconds: float | None = None) -> tuple[int, float]:
    """Where in the schedule a message stands that has failed, and how long it waits there.

    A receiver may ask for a longer wait than the schedule has next. It gets it out of the waits that are still to come,
    so that messages are given up within the same day whatever receivers ask for; the longest that it gets is all that
    is left, with one last attempt behind it.

    Args:
        failures: 1, 2, … below `MOST_FAILURES`, this one included.
        chance: as for `backoff`.
        asked_seconds: the wait that the receiver asked for, if any.

    Returns:
        The failures that now count, those that the wait stands for included, and the seconds to wait.
    """
    wait = backoff(failures, chance)
    if asked_seconds is None or asked_seconds <= wait:
        return failures, wait
    spent = _nominal(failures)
    while spent < asked_seconds and failures + 1 < MOST_FAILURES:
        failures += 1
        spent += _nominal(failures)
    return failures, max(wait, min(asked_seconds, spent))


def _nominal(failures: int) -> float:
    # The exponent is bounded because floats overflow.
    return min(_FIRST_SECONDS * _FACTOR ** min(failures - 1, 64), _LONGEST_SECONDS)


@dataclass(frozen=True)
class Parcel:
    """A message that a deliverer holds; `attempt` is the fence."""

    tenant: str
    id: str
    webhook_id: str
    attempt: int
    owner: str
    at: datetime
    """When it was taken, by the database's clock."""
    url: str
    secrets: tuple[str, ...]
    """To sign with: the current one, and the one before while they overlap."""
    body: str


def oldest_due_seconds(engine: Engine, clock: Clock = database_clock) -> float:
    """For how long the oldest message that is due has been; 0 when none is. Those in their backoff are not due."""
    with reading(engine) as connection:
        now = clock(connection)
        due_at = connection.scalar(select(func.min(DeliveryRow.due_at)).where(DeliveryRow.due_at <= now))
    return (now - due_at).total_seconds() if due_at else 0.0


def _in_hand(connection: Connection, now: datetime) -> dict[str, int]:
    """How many messages of each tenant are being sent; tenants without any are left out."""
    counted = (
        select(DeliveryRow.tenant, func.count().label("messages"))
        .where(DeliveryRow.lease_owner.is_not(None), DeliveryRow.due_at > now)
        .group_by(DeliveryRow.tenant)
    )
    return {row.tenant: row.messages for row in connection.execute(counted)}


def _turns(now: datetime, in_hand: dict[str, int]) -> Select[*tuple[Any, ...]]:
    """The query for the endpoints whose turns come next, first of all one of a tenant with the fewest in hand.

    It looks at each endpoint once, by an index, and not at each message: a tenant may have very many that wait.
    """
    pending = DeliveryRow.due_at.is_not(None)
    first = select(func.min(DeliveryRow.tenant).label("tenant")).where(pending).cte("waiting", recursive=True)
    following = select(func.min(DeliveryRow.tenant)).where(pending, DeliveryRow.tenant > first.c.tenant)
    tenants = first.union_all(select(following.scalar_subquery()).where(first.c.tenant.is_not(None)))
    of_endpoint = DeliveryRow.tenant == WebhookRow.tenant, DeliveryRow.webhook_id == WebhookRow.id
    busy = exists().where(*of_endpoint, DeliveryRow.lease_owner.is_not(None), DeliveryRow.due_at > now)
    oldest = select(func.min(DeliveryRow.due_at)).where(*of_endpoint, DeliveryRow.due_at <= now).scalar_subquery()
    waiting = (
        select(WebhookRow.tenant, WebhookRow.id, oldest.label("due_at"))
        .join(tenants, tenants.c.tenant == WebhookRow.tenant)
        .where(~busy)
        .subquery()
    )
    held = case(in_hand, value=waiting.c.tenant, else_=0) if in_hand else literal(0)
    return (
        select(waiting.c.tenant, waiting.c.id)
        .where(waiting.c.due_at.is_not(None))
        .order_by(held, waiting.c.due_at, waiting.c.id)
        .limit(_TRIES)
    )


class Outbox:
    """The messages of all tenants.

    Args:
        engine: the database.
        lease_seconds: how long a deliverer has to send a message and say what came of it.
        clock: the time by which messages come due.
        chance: a number in [0, 1), drawn for each backoff.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        lease_seconds: float,
        clock: Clock = database_clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._lease = timedelta(seconds=lease_seconds)
        self._clock = clock
        self._chance = chance

    def claim(self, owner: str) -> Parcel | None:
        """Take the message whose turn it is; None when there is none.

        Of the tenants with the fewest messages in hand it is the one that has been due for longest. Messages of an
        endpoint that is being sent one wait, so that an endpoint that is slow to answer holds up its own messages and
        not all deliverers. Claims are made one at a time, so that each sees all that were made before it.
        """
        with reading(self._engine) as connection:  # most looks find nothing; on SQLite a claim would hold up writers
            due = select(DeliveryRow.id).where(DeliveryRow.due_at <= self._clock(connection)).limit(1)
            if connection.scalar(due) is None:
                return None
        while True:
            with writing(self._engine) as connection:
                if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
                    connection.execute(select(func.pg_advisory_xact_lock(_TURN)))
                now = self._clock(connection)
                found = self._next(connection, now)
                if found is None:
                    return None
                if parcel := self._take(connection, now, found, owner):
                    return parcel

    @staticmethod
    def _next(connection: Connection, now: datetime) -> Row[*tuple[Any, ...]] | None:
        """The message whose turn it is, locked; those that another transaction has locked are passed over."""
        for endpoint in connection.execute(_turns(now, _in_hand(connection, now))).all():
            oldest = (
                select(
                    DeliveryRow.tenant,
                    DeliveryRow.id,
                    DeliveryRow.webhook_id,
                    DeliveryRow.attempts,
                    DeliveryRow.body,
                )
                .where(
                    DeliveryRow.tenant == endpoint.tenant,
                    DeliveryRow.webhook_id == endpoint.id,
                    DeliveryRow.due_at <= now,
                )
                .order_by(DeliveryRow.due_at, DeliveryRow.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            if found := connection.execute(oldest).one_or_none():
                return found
        return None

    def _take(self, connection: Connection, now: datetime, found: Row[*tuple[Any, ...]], owner: str) -> Parcel | None:
        """Claim the message whose row is locked here; None where its endpoint was disabled as it was written."""
        webhook = connection.execute(
            select(
                WebhookRow.url,
                WebhookRow.secret,
                WebhookRow.previous_secret,
                WebhookRow.previous_secret_until,
                WebhookRow.disabled_at,
            ).where(WebhookRow.tenant == found.tenant, WebhookRow.id == found.webhook_id)
        ).one()
        key = DeliveryRow.tenant == found.tenant, DeliveryRow.id == found.id
        if webhook.disabled_at is not None:
            connection.execute(
                update(DeliveryRow)
                .where(*key)
                .values(state=DeliveryState.FAILED, due_at=None, lease_owner=None, ended_at=now)
            )
            return None
        number = found.attempts + 1
        connection.execute(
            update(DeliveryRow).where(*key).values(attempts=number, due_at=now + self._lease, lease_owner=owner)
        )
        self._note_lost(connection, found)
        connection.execute(
            insert(DeliveryAttemptRow).values(tenant=found.tenant, delivery_id=found.id, number=number, at=now)
        )
        secrets = [webhook.secret]
        if webhook.previous_secret is not None and webhook.previous_secret_until > now:
            secrets.append(webhook.previous_secret)
        return Parcel(
            found.tenant, found.id, found.webhook_id, number, owner, now, webhook.url, tuple(secrets), found.body
        )

    @staticmethod
    def _note_lost(connection: Connection, found: Row[*tuple[Any, ...]]) -> None:
        connection.execute(
            update(DeliveryAttemptRow)
            .where(
                DeliveryAttemptRow.tenant == found.tenant,
                DeliveryAttemptRow.delivery_id == found.id,
                DeliveryAttemptRow.seconds.is_(None),
                DeliveryAttemptRow.error.is_(None),
            )
            .values(error="The process that sent it ended before it wrote down the answer.")
        )

    def settle(
        self,
        parcel: Parcel,
        status: int | None,
        error: str | None,
        seconds: float,
        asked_seconds: float | None = None,
    ) -> bool:
        """Write down what came of sending the message; False, and nothing is changed, when its lease was lost.

        An answer without error delivers it. 410 Gone disables the endpoint. After any other failure it is sent again
        later, until `MOST_FAILURES`; not before the `asked_seconds` that the receiver asked for (see `next_try`).
        """
        with writing(self._engine) as connection:
            now = self._clock(connection)
            # The endpoint's row first, as whoever deletes or disables it locks them in this order.
            connection.execute(
                select(WebhookRow.id)
                .where(WebhookRow.tenant == parcel.tenant, WebhookRow.id == parcel.webhook_id)
                .with_for_update()
            )
            held = (
                DeliveryRow.tenant == parcel.tenant,
                DeliveryRow.id == parcel.id,
                DeliveryRow.attempts == parcel.attempt,
                DeliveryRow.lease_owner == parcel.owner,
            )
            failures = connection.scalar(select(DeliveryRow.failures).where(*held).with_for_update())
            if failures is None:
                return False
            change: dict[str, Any] = {"lease_owner": None}
            if error is None:
                change |= {"state": DeliveryState.DELIVERED, "due_at": None, "ended_at": now, "failures": 0}
            elif status == _GONE or failures + 1 >= MOST_FAILURES:
                change |= {"state": DeliveryState.FAILED, "due_at": None, "ended_at": now, "failures": failures + 1}
            else:
                failures, wait = next_try(failures + 1, self._chance(), asked_seconds)
                change |= {"due_at": now + timedelta(seconds=wait), "failures": failures}
            connection.execute(update(DeliveryRow).where(*held).values(**change))
            connection.execute(
                update(DeliveryAttemptRow)
                .where(
                    DeliveryAttemptRow.tenant == parcel.tenant,
                    DeliveryAttemptRow.delivery_id == parcel.id,
                    DeliveryAttemptRow.number == parcel.attempt,
                )
                .values(status=status, error=error, seconds=seconds)
            )
            if status == _GONE:
                disable(connection, parcel.tenant, parcel.webhook_id, now, DisabledBecause.GONE)
            return True

    def forget(self) -> int:
        """Delete deliveries that ended longer ago than `KEPT`, or whose audit is deleted, with their log.

        Returns:
            How many there were.
        """
        with writing(self._engine) as connection:
            old = DeliveryRow.ended_at < self._clock(connection) - KEPT
            orphaned = and_(
                DeliveryRow.audit_id.is_(None),
                DeliveryRow.type != literal_column(f"'{TEST}'"),  # as the index has it
                DeliveryRow.ended_at.is_not(None),
            )
            # One by one: each has an index of its own, which a condition that joins them would not use.
            gone = [
                connection.scalars(delete(DeliveryRow).where(which).returning(DeliveryRow.id)).all()
                for which in (old, orphaned)
            ]
        return sum(map(len, gone))
