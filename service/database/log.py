"""The action log: an entry is written in the transaction of the change that it tells of, and never changed.

Triggers on both databases refuse UPDATE and DELETE.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, insert, select
from ulid import ULID

from peelbound.service.database.cursors import decode_cursor, encode_cursor
from peelbound.service.database.engine import reading
from peelbound.service.database.tables import LogRow
from peelbound.service.schemas.log import LogEntry, LogPage


@dataclass(frozen=True)
class Actor:
    """Who makes a change."""

    id: str
    """A token's id, `oidc:{subject}`, or `cli`."""
    name: str
    request_id: str


def write(connection: Connection, tenant: str, by: Actor | None, now: datetime, action: str, target: str) -> None:
    """Add an entry; nobody in particular (the service itself) leaves none."""
    if by is None:
        return
    connection.execute(
        insert(LogRow).values(
            tenant=tenant,
            id=str(ULID.from_datetime(now)),
            at=now,
            actor=by.id,
            actor_name=by.name,
            action=action,
            target=target,
            request_id=by.request_id,
        )
    )


class Log:
    """The log of all tenants; a page holds one tenant's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(
        self, tenant: str | None, *, target: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> LogPage:
        """A page, newest first; `tenant` None is for operators on the database and gives every tenant's.

        Raises:
            CursorInvalid: the cursor is not one that an earlier page gave.
        """
        query = (
            select(
                LogRow.id,
                LogRow.at,
                LogRow.tenant,
                LogRow.actor,
                LogRow.actor_name,
                LogRow.action,
                LogRow.target,
                LogRow.request_id,
            )
            .order_by(LogRow.id.desc())
            .limit(limit + 1)
        )
        if tenant is not None:
            query = query.where(LogRow.tenant == tenant)
        if target is not None:
            query = query.where(LogRow.target == target)
        if cursor is not None:
            query = query.where(LogRow.id < decode_cursor(cursor))
        with reading(self._engine) as connection:
            found = [LogEntry.model_validate(dict(row)) for row in connection.execute(query).mappings()]
        items = found[:limit]
        return LogPage(items=items, next_cursor=encode_cursor(items[-1].id) if len(found) > limit else None)
