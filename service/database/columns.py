"""Column types that read and write the same on PostgreSQL and SQLite."""

from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import DateTime, Dialect, Text
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

T = TypeVar("T")


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, always aware and in UTC: `timestamptz` on PostgreSQL, ISO text (which sorts) on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse times without an offset; SQLite gets UTC without one, so that texts compare as times do."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time needs its UTC offset")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Make times from the database aware and UTC (PostgreSQL answers in the session's zone)."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Stored(TypeDecorator[T]):
    """A value of any type that pydantic knows, kept as JSON text.

    Text and not `jsonb`, because no query looks inside, and `jsonb` refuses the NUL characters that calibration texts
    may hold.
    """

    impl = Text
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    @override
    def process_bind_param(self, value: T | None, dialect: Dialect) -> str | None:
        """Serialise; what cannot be read back (an infinity becomes null) fails here and not in every later reader."""
        if value is None:
            return None
        text = self._adapter.dump_json(value)
        self._adapter.validate_json(text)
        return text.decode()

    @override
    def process_result_value(self, value: str | None, dialect: Dialect) -> T | None:
        """Parse and validate, without what this version does not know: during an upgrade a later one writes too."""
        return None if value is None else self._adapter.validate_json(value, extra="ignore")
