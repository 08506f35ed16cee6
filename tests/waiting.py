"""Waiting for what other threads and processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_SECONDS = 600.0
"""When a wait is taken never to end. It only bounds a hang and says nothing about speed, so it is far beyond what a
busy machine needs, and below pytest's own limit, which could not say what was waited for."""

LOOK_SECONDS = 0.05
"""Many looks go through all processes of the machine, which takes milliseconds of the cores that are waited for."""


def until(look: Callable[[], T], seconds: float = DEADLINE_SECONDS, what: str = "it comes true") -> T:
    """What `look` sees as soon as it is something.

    Args:
        look: asked again and again.
        seconds: after which this fails.
        what: is waited for, for the message.
    """
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(LOOK_SECONDS)
    return seen
