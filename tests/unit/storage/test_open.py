"""Which store the settings open."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from peelbound.service.settings import Settings
from peelbound.service.storage.directory import DirectoryStore
from peelbound.service.storage.open import open_store
from peelbound.service.storage.s3 import S3Store
from peelbound.service.storage.s3_access import S3Access
from peelbound.workers.errors import UserError


def test_a_directory_by_default(tmp_path: Path) -> None:
    assert open_store(Settings(state_dir=tmp_path / "a b")) == DirectoryStore(tmp_path / "a b" / "objects")
    assert open_store(Settings(store_url="file:///somewhere/else")) == DirectoryStore(Path("/somewhere/else"))


def test_s3() -> None:
    secret = SecretStr("s")
    settings = Settings(store_url="s3://bucket/a/b/", s3_region="eu-central-1", s3_secret_access_key=secret)
    assert open_store(settings) == S3Store("bucket", "a/b", S3Access(None, "eu-central-1", None, secret))
    assert open_store(Settings(store_url="s3://bucket")) == S3Store("bucket", "", S3Access())


@pytest.mark.parametrize("url", ["ftp://x/y", "s3://", "relative", "file://host/x", "s3://bucket/x?y=1", "file:x"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="PEELBOUND_STORE_URL") as caught:
        open_store(Settings(store_url=url))
    assert caught.value.slug == "settings-invalid"
