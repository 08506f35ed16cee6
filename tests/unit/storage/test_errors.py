"""What the storages raise becomes the error that says who can mend it."""

import errno
import os
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from peelbound.service.storage.directory import disk_errors
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
    with pytest.raises(StorageDenied) as caught, S3Access().errors("models", pointer="/checkpoint"):
        raise NoCredentialsError
    assert caught.value.pointer == "/checkpoint"
    assert "PEELBOUND_S3_ACCESS_KEY_ID" in caught.value.remedy
