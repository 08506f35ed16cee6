"""`Retry-After` of a receiver's answer: how long it asks to be left alone."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]{1,10}")
_LONGEST_DATE = 64


def seconds_asked(value: str, now: datetime) -> float | None:
    """Seconds from now on; None where the value is neither seconds nor a date (RFC 9110, 10.2.3).

    Args:
        value: the header's value, from a stranger.
        now: the time by which a date is counted, with its zone. A date that has passed asks for nothing, 0.
    """
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    if len(text) > _LONGEST_DATE:
        return None
    try:
        asked = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if asked.tzinfo is None:  # "-0000", or a form without a zone: HTTP's dates are in UTC
        asked = asked.replace(tzinfo=UTC)
    return max(0.0, (asked - now).total_seconds())
