"""How a command fails: a message on standard error, and exit code 3."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click
import httpx2

from peelbound.errors import EndpointInvalid, ProblemError, ServiceNotFound
from peelbound.extras import ServerExtraMissing
from peelbound.local import StartFailed
from peelbound.workers.errors import PeelboundError

P = ParamSpec("P")
T = TypeVar("T")


_EXPECTED = (ProblemError, PeelboundError, EndpointInvalid, ServiceNotFound, ServerExtraMissing, StartFailed)
"""What says in its message all that a user needs."""


class Failure(click.ClickException):
    """The command could not do what was asked."""

    exit_code = 3


def reporting(command: Callable[P, T]) -> Callable[P, T]:
    """Turn what the client raises into messages; an interrupt ends with 130, as a shell has it."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except _EXPECTED as error:
            raise Failure(str(error)) from error
        except httpx2.RequestError as error:  # also one that is redirected in a circle
            raise Failure(f"The service cannot be reached: {error}") from error
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    return wrapped
