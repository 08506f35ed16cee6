"""How a deliberate error looks on the wire."""

from peelbound.service.schemas.problem import Problem
from peelbound.workers.errors import InfrastructureError, PeelboundError, UserError

_STATUS = {
    "audit-not-found": 404,
    "run-not-found": 404,
    "artifact-not-found": 404,
    "object-missing": 404,
    "webhook-not-found": 404,
    "delivery-not-found": 404,
    "webhook-disabled": 409,
    "webhook-limit": 409,
    "audit-ended": 409,
    "audit-not-ended": 409,
    "report-not-available": 409,
    "unauthenticated": 401,
    "token-expired": 401,
    "scope-missing": 403,
    "link-token-too-powerful": 403,
    "rate-limited": 429,
    "tenant-active-limit": 429,
    "tenant-busy": 429,
    "tenant-storage-limit": 409,
    "storage-denied": 503,
    "storage-full": 507,
}


def status_of(error: PeelboundError) -> int:
    """The HTTP status that says who can mend the error: 4xx the caller, 503 time, 500 us."""
    if error.slug in _STATUS:
        return _STATUS[error.slug]
    if isinstance(error, UserError):
        return 422
    return 503 if isinstance(error, InfrastructureError) else 500


def as_problem(error: PeelboundError) -> Problem:
    """The problem document of an error."""
    return Problem.make(
        error.slug, error.title, status_of(error), error.detail, error.remedy, error.pointer, **error.extra
    )
