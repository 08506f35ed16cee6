from pathlib import Path

import pytest

from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.storage.open import open_store
from tests.s3_server import S3Server, s3_server

__all__ = ["s3_server"]


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each kind, made as the service makes it."""
    if request.param == "directory":
        return open_store(Settings(store_url=(tmp_path / "a store").as_uri()))
    server: S3Server = request.getfixturevalue("s3_server")
    return open_store(
        Settings(
            store_url=f"s3://{server.new_bucket()}/some/prefix",
            s3_endpoint_url=server.endpoint_url,
            s3_access_key_id=server.access().access_key_id,
            s3_secret_access_key=server.access().secret_access_key,
        )
    )
