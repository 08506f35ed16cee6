"""Fixtures of the API's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from peelbound.service.database.schema import open_database
from tests.unit.api.harness import api, settings

__all__ = ["api", "settings"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Of an empty database."""
    engine = open_database(f"sqlite:///{tmp_path / 'peelbound.db'}", wait_seconds=0)
    yield engine
    engine.dispose()
