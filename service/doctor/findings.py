"""What a look at a part of the installation found."""

from enum import StrEnum

from peelbound.service.schemas.base import WireModel


class Status(StrEnum):
    """How a part is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and will give trouble."""
    WRONG = "wrong"
    SKIPPED = "skipped"
    """Nothing to look at."""


class Finding(WireModel):
    """One part of an installation."""

    part: str
    status: Status
    detail: str
    remedy: str = ""


def ok(part: str, detail: str) -> Finding:
    """The part is as it should be."""
    return Finding(part=part, status=Status.OK, detail=detail)


def warning(part: str, detail: str, remedy: str) -> Finding:
    """The part works, and will give trouble."""
    return Finding(part=part, status=Status.WARNING, detail=detail, remedy=remedy)


def wrong(part: str, detail: str, remedy: str) -> Finding:
    """The part must be mended."""
    return Finding(part=part, status=Status.WRONG, detail=detail, remedy=remedy)


def skipped(part: str, detail: str) -> Finding:
    """There is nothing to look at here."""
    return Finding(part=part, status=Status.SKIPPED, detail=detail)
