"""What the client raises."""

from peelbound.service.schemas.problem import Problem


class ProblemError(Exception):
    """The service answered with a problem.

    Attributes:
        problem: what went wrong, where (`pointer`) and what to do (`remedy`).
    """

    def __init__(self, problem: Problem) -> None:
        where = f" ({problem.pointer})" if problem.pointer else ""
        super().__init__(f"{problem.title}{where}: {problem.detail} {problem.remedy}".strip())
        self.problem = problem


class EndpointInvalid(Exception):
    """The address or the token that is configured cannot be one; the message never quotes the token."""


class ServiceNotFound(Exception):
    """No service is configured and none runs on this machine."""
