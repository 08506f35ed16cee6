"""What the client raises, on its way between processes."""

import copy
import pickle
from collections.abc import Callable

import pytest

from peelbound.errors import ProblemError
from peelbound.service.schemas.problem import Problem


def _pickled(error: ProblemError) -> ProblemError:
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, ProblemError)
    return again


@pytest.mark.parametrize("copied", [_pickled, copy.copy, copy.deepcopy])
def test_a_problem_survives_being_copied(copied: Callable[[ProblemError], ProblemError]) -> None:
    problem = Problem.make("x", "X", 503, "It is away.", "Wait.", "/checkpoint", bytes_needed=7)
    error = ProblemError(problem, retry_after=2.5)
    again = copied(error)
    assert (again.problem, again.retry_after, str(again)) == (problem, 2.5, str(error))
