"""A service on each of the databases."""

import pytest
from sqlalchemy import Engine

from tests.integration.database.harness import Service


@pytest.fixture
def service(engine: Engine) -> Service:
    return Service(engine)
