"""What the client raises."""

from functools import partial
from typing import Any

from peelbound.service.schemas.problem import Problem


class ProblemError(Exception):
    """The service answered with a problem.

    Attributes:
        problem: what went wrong, where (`pointer`) and what to do (`remedy`).
        retry_after: seconds after which the service asks to be asked again (`Retry-After`), if it does.
    """

    def __init__(self, problem: Problem, *, retry_after: float | None = None) -> None:
        where = f" ({problem.pointer})" if problem.pointer else ""
        super().__init__(f"{problem.title}{where}: {problem.detail} {problem.remedy}".strip())
        self.problem = problem
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # Pools of processes hand on what their tasks raise; left to itself Python would call us with the message.
        return partial(type(self), retry_after=self.retry_after), (self.problem,)


class EndpointInvalid(Exception):
    """The address, the token or the state directory that is configured cannot be one; the token is never quoted."""


class ServiceNotFound(Exception):
    """No service is configured and none runs on this machine."""


class ServiceStarting(ServiceNotFound):
    """No service is configured, and the one on this machine does not answer yet: it will soon, or say why not."""
