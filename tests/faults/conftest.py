"""Options of `make chaos`, and what the rounds audit."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=1, help="how many rounds of audits and faults")
    parser.addoption("--seed", type=int, default=9, help="of the choice of faults")


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    found: int = request.config.getoption("--rounds", default=1)
    return found


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    found: int = request.config.getoption("--seed", default=9)
    return found
