"""Panics of libraries that are written in Rust."""

from collections.abc import Iterator
from contextlib import contextmanager


class Panic(Exception):
    """A library gave up in the middle of its work; whatever it was given is at fault."""


@contextmanager
def panics_caught() -> Iterator[None]:
    """Make a panic an ordinary exception.

    PyO3 raises one as a `BaseException`, like an interrupt, which no `except Exception` stops: one bad file would end
    the process and with it the work of everybody else. Its class cannot be imported.

    Raises:
        Panic: in the place of a panic.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise Panic(str(error)) from error
