"""Requests that this version cannot read: an API of a later one took them, and controllers of that version are to come.

Such an audit is put off, for a controller that can read it, and never carried out without what is not understood. If
none comes for about an hour, the audit is failed.
"""

from pydantic import ValidationError

from peelbound import __version__
from peelbound.service.schemas.problem import Problem

SLUG = "request-unreadable"

AGAIN_SECONDS = 60.0
TRIES = 60

_SAID = 3


def next_try(last: Problem | None, attempt: int) -> int:
    """How often in a row the audit was claimed by a controller that could not read it, the attempt at hand included.

    Args:
        last: what the audit's row says of the attempts before.
        attempt: the one at hand.
    """
    further = {} if last is None or last.slug != SLUG else last.model_extra or {}
    return 1 + int(further["tries"]) if further.get("attempt") == attempt - 1 else 1


def faults(error: ValidationError) -> str:
    """The first few, without the values themselves, which may be long."""
    told = (
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)[:_SAID]
    )
    return "; ".join(told)


def as_problem(error: ValidationError, attempt: int, tries: int) -> Problem:
    """What is said of the audit."""
    return Problem.make(
        SLUG,
        "The controllers do not understand the request",
        503,
        f"Controllers of version {__version__} cannot read the request ({faults(error)}); {tries} of at "
        f"most {TRIES} tries.",
        f"Run controllers of a later version than {__version__}: that of the API that took the request. Upgrade "
        "controllers before APIs. If the audit has failed, submit it again.",
        attempt=attempt,
        tries=tries,
    )
