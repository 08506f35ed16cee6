"""What the storages raise becomes the error that says who can mend it."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, PartialCredentialsError

from peelbound.service.storage.directory import disk_errors
from peelbound.service.storage.s3 import S3Store
from peelbound.service.storage.s3_access import S3Access
from peelbound.workers.errors import PeelboundError, StorageDenied, StorageFull, StorageUnavailable


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EACCES, StorageDenied),
        (errno.EROFS, StorageDenied),
        (errno.EIO, StorageUnavailable),
        (errno.ESTALE, StorageUnavailable),
    ],
)
def test_errors_of_the_disk(number: int, expected: type[PeelboundError]) -> None:
    with pytest.raises(expected, match=os.strerror(number)), disk_errors(Path("/objects")):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", StorageDenied),
        (403, "SignatureDoesNotMatch", StorageDenied),
        (400, "ExpiredToken", StorageDenied),
        (404, "NoSuchBucket", StorageDenied),
        (301, "PermanentRedirect", StorageDenied),
        (500, "InternalError", StorageUnavailable),
        (503, "SlowDown", StorageUnavailable),
        (429, "TooManyRequests", StorageUnavailable),
        (409, "ConditionalRequestConflict", StorageUnavailable),
        (400, "RequestTimeout", StorageUnavailable),
        (507, "XMinioStorageFull", StorageFull),
        (507, "InsufficientStorage", StorageFull),
    ],
)
def test_answers_of_s3(status: int, code: str, expected: type[PeelboundError]) -> None:
    with pytest.raises(expected, match=f"bucket models.*PutObject.*{status} {code}: why"), S3Access().errors("models"):
        raise ClientError(
            {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
            "PutObject",
        )


def test_no_answer_and_no_credentials() -> None:
    with pytest.raises(StorageUnavailable), S3Access().errors("models"):
        raise EndpointConnectionError(endpoint_url="http://x")
    with pytest.raises(StorageUnavailable, match="no credentials") as none, S3Access().errors("models", pointer="/x"):
        raise NoCredentialsError
    with pytest.raises(StorageDenied) as half, S3Access().errors("models", pointer="/x"):
        raise PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY")
    for caught in (none.value, half.value):
        assert caught.pointer == "/x"
        assert "PEELBOUND_S3_ACCESS_KEY_ID" in caught.remedy


class _Instance(BaseHTTPRequestHandler):
    """The metadata service of an instance, which can be away, and an S3 server without objects."""

    away = True

    def do_PUT(self) -> None:
        self._answer("a token")

    def do_GET(self) -> None:
        keys = {"AccessKeyId": "id", "SecretAccessKey": "key", "Token": "token", "Expiration": "2099-01-01T00:00:00Z"}
        self._answer("role" if self.path.endswith("/") else json.dumps({"Code": "Success", **keys}))

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def _answer(self, body: str) -> None:
        self.send_response(503 if self.away else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an `_Instance`, whose role is all that gives credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Instance) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield address
        server.shutdown()
        thread.join()


def test_credentials_that_were_away_are_found_once_they_are_back(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store("models", "", S3Access(endpoint_url=instance))
    with pytest.raises(StorageUnavailable, match="no credentials"):
        store.info("a")
    monkeypatch.setattr(_Instance, "away", False)
    assert store.info("a") is None
