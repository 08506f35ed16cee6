"""Logs of the service's processes: plain lines, or a JSON object each, with what the work at hand belongs to."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["plain", "json"]

_CONTEXT: ContextVar[dict[str, str | int]] = ContextVar("log_context", default={})  # noqa: B039 - never changed in place


@contextmanager
def log_context(**fields: str | int) -> Iterator[None]:
    """Give every message of this block, and of what it calls, these fields (`audit_id`, `attempt`, `request_id`)."""
    token = _CONTEXT.set(_CONTEXT.get() | fields)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def configure_logs(log_format: LogFormat, level: int = logging.INFO) -> None:
    """Send the logs of this process to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if log_format == "json" else _Plain())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _Plain(logging.Formatter):
    """Time, level, logger, message, and what it belongs to."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """The line without a traceback."""
        fields = "".join(f" {name}={value}" for name, value in _CONTEXT.get().items())
        return super().formatMessage(record) + (f" [{fields[1:]}]" if fields else "")


class _Json(JsonFormatter):
    """`time`, `level`, `logger`, `message`, `exception`, and the fields of the context and of the call's `extra`."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            timestamp="time",
        )

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        """Add the context's fields to the record's own."""
        super().add_fields(log_data, record, message_dict)
        log_data.update(_CONTEXT.get())
