"""SQLite with a directory, and PostgreSQL with S3."""

from pathlib import Path

import pytest

from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.storage.open import open_store
from tests.s3_server import S3Server, s3_server

__all__ = ["s3_server"]


@pytest.fixture
def store_settings(request: pytest.FixtureRequest, migrated_url: str, tmp_path: Path) -> Settings:
    if migrated_url.startswith("sqlite"):
        return Settings(database_url=migrated_url, store_url=(tmp_path / "objects").as_uri())
    server: S3Server = request.getfixturevalue("s3_server")
    return Settings(
        database_url=migrated_url,
        store_url=f"s3://{server.new_bucket()}/prefix",
        s3_endpoint_url=server.endpoint_url,
        s3_access_key_id=server.access().access_key_id,
        s3_secret_access_key=server.access().secret_access_key,
    )


@pytest.fixture
def store(store_settings: Settings) -> ObjectStore:
    return open_store(store_settings)
