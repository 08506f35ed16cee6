"""Settings: documented as they are, and handed to child processes as they were."""

from pathlib import Path
from typing import get_origin

import pytest
from pydantic import SecretStr, ValidationError

from peelbound.service.settings import Settings
from peelbound.service.settings_table import inserted

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_documented_table_is_the_settings() -> None:
    document = OPERATIONS.read_text(encoding="utf-8")
    assert inserted(document) == document, "run: make settings"


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_child_process_has_the_same_settings(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    settings = Settings(
        allow=["/a", "s3://b/"],
        oidc_tenants={"Acme Ltd": "acme"},
        tenant_stored_bytes=5,
        s3_secret_access_key=SecretStr("hidden"),
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


COMPOUND = [n for n, field in Settings.model_fields.items() if get_origin(field.annotation) in (list, dict)]


@pytest.mark.parametrize("written", ["/data/models", "[/data/models]", '"/data/models"', "file:///a,s3://b/"])
@pytest.mark.parametrize("name", COMPOUND)
def test_a_list_that_is_no_json_is_refused_by_its_name_and_told_how(
    name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PEELBOUND_{name.upper()}", written)
    with pytest.raises(ValidationError) as caught:
        Settings()
    (error,) = caught.value.errors()
    assert error["loc"] == (name,)
    assert error["msg"] == 'This is no JSON; a list is written ["file:///data", "s3://models/"]'


@pytest.mark.parametrize(
    "written",
    [
        *("minio:9000", "minio", "http://", "https://:9000", "ftp://minio", "http://minio:x", "http://my_minio:9000"),
        "http://minio:9000 ",
    ],
)
def test_an_endpoint_that_is_no_url_is_refused(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEELBOUND_S3_ENDPOINT_URL", written)
    with pytest.raises(ValidationError) as caught:
        Settings()
    (error,) = caught.value.errors()
    assert error["loc"] == ("s3_endpoint_url",)
    assert "http://host:port" in error["msg"]


@pytest.mark.parametrize(
    ("written", "endpoint"),
    [
        ("", None),
        ("http://minio:9000", "http://minio:9000"),
        ("https://[::1]/s3", "https://[::1]/s3"),
        ("http://10.0.0.1", "http://10.0.0.1"),
    ],
)
def test_an_endpoint_is_a_url_or_empty_for_none(
    written: str, endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEELBOUND_S3_ENDPOINT_URL", written)
    assert Settings().s3_endpoint_url == endpoint


@pytest.mark.parametrize("name", ["audit_keep_seconds", "result_grace_seconds", "collect_seconds"])
@pytest.mark.parametrize("written", ["inf", "nan", "1e12", "3153600001"])
def test_a_time_that_leads_out_of_the_calendar_is_refused(
    name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PEELBOUND_{name.upper()}", written)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [error["loc"] for error in caught.value.errors()] == [(name,)]
    monkeypatch.setenv(f"PEELBOUND_{name.upper()}", "3153600000")  # 36,500 days
    assert getattr(Settings(), name) == 36_500 * 86_400


def test_a_relative_state_directory_is_one_of_the_directory_that_the_process_started_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(state_dir=Path("state"))
    assert settings.state_dir == tmp_path / "state"
    assert settings.resolved_store_url == (tmp_path / "state" / "objects").as_uri()


def test_an_empty_state_directory_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEELBOUND_STATE_DIR", raising=False)
    default = Settings().state_dir
    monkeypatch.setenv("PEELBOUND_STATE_DIR", "")
    assert Settings().state_dir == default


@pytest.mark.parametrize("name", ["S3_REGION", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "S3_ENDPOINT_URL"])
def test_an_empty_variable_of_s3_is_as_none_at_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"PEELBOUND_{name}", "")
    assert getattr(Settings(), name.lower()) is None
