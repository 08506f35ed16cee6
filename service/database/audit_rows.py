"""How the rows of audits are read: field by field, so that one of a later version stands in no other's way."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from sqlalchemy import RowMapping, Select, Text, select, type_coerce

from peelbound import __version__
from peelbound.service.database import unreadable
from peelbound.service.database.errors import AuditUnreadable
from peelbound.service.database.tables import AuditRow, RequestRow
from peelbound.service.schemas.base import WireModel
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.record import AuditRecord, Progress, RunPoint
from peelbound.service.schemas.report import Summary
from peelbound.service.schemas.request import AuditRequest

logger = logging.getLogger(__name__)

_COLUMNS = {
    "id": AuditRow.id,
    "state": AuditRow.state,
    "attempt": AuditRow.attempt,
    "created_at": AuditRow.created_at,
    "started_at": AuditRow.started_at,
    "ended_at": AuditRow.ended_at,
    "progress": type_coerce(AuditRow.progress, Text),
    "problem": type_coerce(AuditRow.problem, Text),
    "summary": type_coerce(AuditRow.summary, Text),
    "request": type_coerce(RequestRow.body, Text),
}
"""The fields of `AuditRecord`, and where they are kept; what is kept as JSON is read row by row, see `record_of`."""
_PARTS: dict[str, type[WireModel]] = {
    "progress": Progress,
    "problem": Problem,
    "summary": Summary,
    "request": AuditRequest,
}
# Built once: to build a statement and to find what was compiled for it costs more than to execute it.
RECORDS: Select[*tuple[Any, ...]] = select(*(column.label(name) for name, column in _COLUMNS.items())).join(
    RequestRow, (RequestRow.tenant == AuditRow.tenant) & (RequestRow.audit_id == AuditRow.id)
)


def record_of(row: RowMapping) -> AuditRecord:
    """The record of a row of `RECORDS`, without what this version does not know.

    Raises:
        AuditUnreadable: there is something that it cannot do without.
    """
    fields = {name: row[name] for name in _COLUMNS}
    try:
        for name, part in _PARTS.items():
            if fields[name] is not None:
                fields[name] = part.model_validate_json(fields[name], extra="ignore")
        return AuditRecord.model_validate(fields)
    except ValidationError as error:
        raise AuditUnreadable(
            f"Version {__version__} of the service cannot read audit {row['id']} ({unreadable.faults(error)}).",
            remedy="A later version wrote it, which other replicas may be of: try again, or have this one upgraded.",
        ) from error


def readable(rows: Iterable[RowMapping]) -> Iterator[tuple[RowMapping, AuditRecord]]:
    """Each row with its record; one that cannot be read is logged and left out, for the sake of the others."""
    for row in rows:
        try:
            yield row, record_of(row)
        except AuditUnreadable as error:
            logger.warning("%s", error.detail)


def points_of(row: RowMapping) -> list[RunPoint]:
    """The point of a run that an audit is; none where this version cannot read its summary."""
    try:
        summary = None if row["summary"] is None else Summary.model_validate_json(row["summary"], extra="ignore")
    except ValidationError as error:
        logger.warning("audit %s cannot be read: %s", row["audit_id"], unreadable.faults(error))
        return []
    return [RunPoint.model_validate({**row, "summary": summary})]
