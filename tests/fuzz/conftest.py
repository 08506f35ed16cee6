"""How much is tried: FUZZ_ROUNDS cases in all (few for `make test`, 10,000 for `make fuzz`), begun from FUZZ_SEED."""

import os

import pytest


@pytest.fixture(scope="session")
def rounds() -> int:
    return int(os.environ.get("FUZZ_ROUNDS", "420"))


@pytest.fixture(scope="session")
def seed() -> int:
    return int(os.environ.get("FUZZ_SEED", "1"))
