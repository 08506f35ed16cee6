"""`peelbound doctor` among real servers: it says which of several things that can be wrong it is."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, text

from peelbound.service.database.engine import make_engine
from peelbound.service.database.schema import migrate
from peelbound.service.doctor.cluster import examine_cluster
from peelbound.service.doctor.database import examine_database
from peelbound.service.doctor.findings import Finding
from peelbound.service.doctor.store import examine_store
from peelbound.service.settings import Settings
from tests.integration.cli.conftest import Run
from tests.integration.client.harness import Service
from tests.ray_cluster import ENVIRONMENT, ray_cluster
from tests.s3_server import S3Server, free_ports, s3_server

__all__ = ["s3_server"]


def findings(done: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, Any]]:
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    assert (done.returncode == 1) == any(f["status"] == "wrong" for f in found)
    assert all(f["remedy"] for f in found if f["status"] in ("wrong", "warning"))
    return {f["part"]: f for f in found}


def test_nothing_is_wrong_with_a_service_that_works(
    run: Run, service: Service, database_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    engine = make_engine(database_url)
    migrate(engine)
    engine.dispose()
    bucket = s3_server.new_bucket()
    variables = s3_server.environment() | {
        "PEELBOUND_DATABASE_URL": database_url,
        "PEELBOUND_STORE_URL": f"s3://{bucket}/results",
        "PEELBOUND_ALLOW": json.dumps([str(tmp_path), f"s3://{bucket}/models"]),
        "PEELBOUND_URL": service.url,
        "PEELBOUND_TOKEN": service.token,
    }
    found = findings(run("doctor", "--json", **variables))
    assert {part for part, f in found.items() if f["status"] not in ("ok", "skipped")} == set()
    asked = {"database", "schema", "store", "store clock", "store promises", "allow-list", "service", "versions"}
    assert {part for part, f in found.items() if f["status"] == "ok"} >= asked
    assert s3_server.access().client().list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    said = run("doctor", **variables)
    assert said.returncode == 0
    assert "store promises" in said.stdout


class NoS3(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), NoS3) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_part_of_the_store_that_is_wrong_is_named(
    s3_server: S3Server, web_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PEELBOUND_STORE_URL", f"s3://{s3_server.new_bucket()}/results")
    (nobody,) = free_ports(1)
    for changes, detail, remedy in (
        ({"store_url": "s3://no-such-bucket/results"}, "no bucket", "PEELBOUND_STORE_URL"),
        ({"s3_access_key_id": "unknown"}, "access key", "PEELBOUND_S3_ACCESS_KEY_ID"),
        ({"s3_secret_access_key": "wrong"}, "secret key", "PEELBOUND_S3_SECRET_ACCESS_KEY"),
        ({"s3_endpoint_url": f"http://127.0.0.1:{nobody}"}, "not answer", "ENDPOINT_URL"),
        ({"s3_endpoint_url": web_server}, "no S3 server", "ENDPOINT_URL"),
        ({"store_url": "ftp://x"}, "ftp://x", "s3://"),
    ):
        (found,) = examine_store(Settings(**changes))
        assert found.status == "wrong", found
        assert detail in found.detail
        assert remedy in found.remedy


def test_credentials_that_are_nowhere_are_named(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    settings = Settings(store_url="s3://bucket/results", s3_endpoint_url=s3_server.endpoint_url)
    (found,) = examine_store(settings)
    assert (found.status, "no credentials" in found.detail) == ("wrong", True)


def test_a_database_that_is_away_empty_or_newer_is_told_apart(postgres_url: URL) -> None:
    def doctor(url: URL) -> dict[str, Finding]:
        settings = Settings(database_url=url.render_as_string(hide_password=False))
        return {finding.part: finding for finding in examine_database(settings)}

    away = doctor(postgres_url.set(password="secret", username="u", host="127.0.0.1", port=1, query={}))["database"]
    assert away.status == "wrong"
    assert "secret" not in away.model_dump_json()
    maintenance = make_engine(postgres_url.render_as_string(hide_password=False))
    with maintenance.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("CREATE DATABASE doctor"))
    maintenance.dispose()
    url = postgres_url.set(database="doctor")
    empty = doctor(url)
    assert (empty["database"].status, empty["schema"].status) == ("ok", "wrong")
    assert empty["schema"].remedy == "Run: peelbound migrate"
    assert empty["database clock"].status == "ok"
    engine = make_engine(url.render_as_string(hide_password=False))
    migrate(engine)
    assert doctor(url)["schema"].status == "ok"
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "newer" in doctor(url)["schema"].remedy
    with engine.begin() as connection:
        connection.execute(text("ALTER DATABASE doctor SET default_transaction_read_only = on"))
    engine.dispose()
    assert "no writes" in doctor(url)["database"].detail


def test_a_token_that_nobody_knows_and_a_setting_that_cannot_be_read_are_named(run: Run, service: Service) -> None:
    stranger = findings(run("doctor", "--json", PEELBOUND_URL=service.url, PEELBOUND_TOKEN="nobody's"))["service"]
    assert (stranger["status"], "PEELBOUND_TOKEN" in stranger["remedy"]) == ("wrong", True)
    away = findings(run("doctor", "--json", PEELBOUND_URL="http://127.0.0.1:1"))["service"]
    assert (away["status"], "not answer" in away["detail"]) == ("wrong", True)
    misspelt = findings(run("doctor", "--json", PEELBOUND_WORKERS="none"))["settings"]
    assert (misspelt["status"], "PEELBOUND_WORKERS" in misspelt["detail"]) == ("wrong", True)


def test_a_wrong_ray_token_is_named_and_room_for_the_workers_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_cluster(tmp_path, 1) as cluster:
        settings = Settings(ray_address=cluster.address, workers=1)
        for name, value in (ENVIRONMENT | cluster.environment()).items():
            monkeypatch.setenv(name, value)
        found = examine_cluster(settings)
        assert (found.status, found.detail) == ("ok", f"{cluster.address}: 1 nodes with 1 CPUs and 0 GPUs.")
        assert examine_cluster(settings.model_copy(update={"workers": 2})).status == "warning"
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        stranger = examine_cluster(settings)
    assert (stranger.status, "RAY_AUTH_TOKEN" in stranger.remedy) == ("wrong", True), stranger
