"""`Retry-After` as receivers write it, well and badly, and what the schedule makes of it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelbound.service.database.outbox import MOST_FAILURES, backoff, next_try
from peelbound.service.webhooks.retry_after import seconds_asked

NOW = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)
WHOLE = sum(backoff(n, 0.5) for n in range(1, MOST_FAILURES))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("9999999999", 9999999999),
        ("Wed, 25 Nov 2026 10:30:00 GMT", 3600),
        ("Wednesday, 25-Nov-26 10:30:00 GMT", 3600),
        ("Wed Nov 25 10:30:00 2026", 3600),
        ("Wed, 25 Nov 2026 09:00:00 GMT", 0),
        ("99999999999", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        ("soon", None),
        ("Wed, 99 Nov 2026 10:30:00 GMT", None),
        ("Wed, 25 Nov 2026 10:30:00 GMT" + " " * 40 + "x", None),
    ],
)
def test_seconds_and_dates_are_read_and_nothing_else(value: str, seconds: float | None) -> None:
    assert seconds_asked(value, NOW) == seconds


@given(
    st.text(max_size=80) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,9} \d\d:\d\d:\d\d [-+]?\w{1,9}")
)
def test_whatever_a_stranger_writes_is_a_wait_or_nothing(value: str) -> None:
    asked = seconds_asked(value, NOW)
    assert asked is None or asked >= 0


def test_a_receiver_that_asks_for_less_than_the_schedule_has_changes_nothing() -> None:
    for asked in (None, 0.0, 44.9):
        assert next_try(3, 0.5, asked) == (3, 45.0)


def test_a_longer_wait_stands_for_the_steps_that_it_takes() -> None:
    assert next_try(1, 0.5, 20.0) == (2, 20.0)
    assert next_try(1, 0.5, 3600.0) == (7, 3600.0)
    assert next_try(12, 0.5, 5 * 3600.0) == (13, 5 * 3600.0)


@given(st.floats(0, 1, exclude_max=True), st.lists(st.none() | st.floats(0, 1e10), min_size=MOST_FAILURES))
def test_whatever_receivers_ask_for_a_message_is_given_up_within_its_day(
    chance: float, asks: list[float | None]
) -> None:
    failures, waited = 0, 0.0
    for asked in asks:
        if failures + 1 >= MOST_FAILURES:
            break
        failures, wait = next_try(failures + 1, chance, asked)
        assert wait >= min(asked or 0.0, backoff(failures, 0.0))
        waited += wait
    assert failures + 1 >= MOST_FAILURES
    assert waited <= 1.2 * WHOLE


def test_who_asks_for_for_ever_is_asked_once_more_at_the_end_of_the_day() -> None:
    failures, wait = next_try(1, 0.5, 1e9)
    assert (failures, wait) == (MOST_FAILURES - 1, WHOLE)
    assert 24 * 3600 <= WHOLE <= 25 * 3600
