"""The whole application on each of the databases."""

from pathlib import Path

import pytest

from peelbound.service.settings import Settings
from tests.unit.api.harness import api

__all__ = ["api"]


@pytest.fixture
def settings(tmp_path: Path, migrated_url: str) -> Settings:
    return Settings(
        state_dir=tmp_path,
        database_url=migrated_url,
        allow=["/data"],
        request_burst=10_000,
        tenant_active_audits=100,
    )
