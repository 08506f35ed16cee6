"""The whole application on each of the databases."""

from pathlib import Path

import pytest

from peelbound.service.database.schema import open_database
from peelbound.service.settings import Settings
from tests.unit.api.harness import api

__all__ = ["api"]


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    open_database(database_url, wait_seconds=0, migrating=True).dispose()
    return Settings(
        state_dir=tmp_path,
        database_url=database_url,
        allow=["/data"],
        request_burst=10_000,
        tenant_active_audits=100,
    )
