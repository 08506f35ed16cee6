"""How a process reaches S3: clients, typed errors, and a read that survives a connection broken off in the middle."""

import functools
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.handlers import add_expect_header
from pydantic import SecretStr
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

from peelbound.service.settings import Settings
from peelbound.workers.errors import PeelboundError, StorageDenied, StorageFull, StorageUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectRequestTypeDef

_BROKEN_OFF = (HTTPClientError, IncompleteReadError)
_NONE_NOW = (NoCredentialsError, CredentialRetrievalError)
"""Nobody gave credentials when they were asked for; the instance's metadata service, say, may only have been away."""
_NONE_EVER = (PartialCredentialsError, ProfileNotFound)
NO_CREDENTIALS = (*_NONE_NOW, *_NONE_EVER)
_FULL = frozenset({"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded", "507"})
_PASSING = frozenset({"OperationAborted", "ConditionalRequestConflict", "RequestTimeout", "RequestTimeTooSkewed"})

_DENIED_REMEDY = (
    "Check the bucket's name, PEELBOUND_S3_ENDPOINT_URL, PEELBOUND_S3_REGION, PEELBOUND_S3_ACCESS_KEY_ID and "
    "PEELBOUND_S3_SECRET_ACCESS_KEY (or the environment's AWS credentials), and that they grant s3:ListBucket and "
    "s3:GetObject, for results also s3:PutObject and s3:DeleteObject."
)
_NO_CREDENTIALS_REMEDY = (
    "Set PEELBOUND_S3_ACCESS_KEY_ID and PEELBOUND_S3_SECRET_ACCESS_KEY, or see that the process gets AWS credentials "
    "(environment, profile, instance role). They are looked for again each time."
)


@dataclass(frozen=True)
class S3Access:
    """Endpoint and credentials; picklable, so that each process makes clients of its own.

    Attributes:
        endpoint_url: None is AWS.
        region: None is boto3's own choice, or `us-east-1` (which means nothing) where an endpoint is set.
        access_key_id: None is boto3's own chain: environment, profile, instance role.
        secret_access_key: as `access_key_id`.
        attempts: how often a request is tried in all, with exponential backoff and full jitter.
    """

    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    attempts: int = 5

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The access that the settings describe, for the store and for checkpoints alike."""
        return cls(
            settings.s3_endpoint_url, settings.s3_region, settings.s3_access_key_id, settings.s3_secret_access_key
        )

    def client(self) -> "S3Client":
        """This process's client; clients are thread-safe and keep their connections."""
        return _client(self, os.getpid())

    @contextmanager
    def errors(self, bucket: str, *, pointer: str | None = None) -> Iterator[None]:
        """Turn what boto3 raises into `StorageDenied`, `StorageFull` or `StorageUnavailable`."""
        where = f"{self.endpoint_url or 'AWS S3'}, bucket {bucket}"
        try:
            yield
        except ClientError as error:
            raise _typed(error, where, pointer) from error
        except _NONE_NOW as error:
            _client.cache_clear()  # a client that found none when it was made never asks again
            raise StorageUnavailable(
                f"{where}: no credentials: {error}.", remedy=_NO_CREDENTIALS_REMEDY, pointer=pointer
            ) from error
        except _NONE_EVER as error:
            raise StorageDenied(f"{where}: {error}.", remedy=_DENIED_REMEDY, pointer=pointer) from error
        except (BotoCoreError, RetriesExceededError, S3DownloadFailedError) as error:
            raise StorageUnavailable(f"{where}: {error}.", pointer=pointer) from error

    def read(
        self, bucket: str, key: str, *, span: tuple[int, int] | None = None, etag: str | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """An object's bytes and metadata, read again from the start when the connection breaks off in the body.

        Args:
            bucket: the bucket.
            key: the whole key.
            span: offset and length of the bytes wanted (length above 0); None is all.
            etag: refuse (412) unless the object still has this etag.

        Raises:
            ClientError: as S3 answered; the caller knows what 404 and 412 mean. `errors` maps all others.
        """
        request: GetObjectRequestTypeDef = {"Bucket": bucket, "Key": key}
        if span is not None:
            request["Range"] = f"bytes={span[0]}-{span[0] + span[1] - 1}"
        if etag is not None:
            request["IfMatch"] = etag
        for attempt in range(1, self.attempts + 1):
            response = self.client().get_object(**request)
            try:
                return response["Body"].read(), response["Metadata"]
            except _BROKEN_OFF:
                if attempt == self.attempts:
                    raise
                time.sleep(random.uniform(0, 0.2 * 2**attempt))  # noqa: S311 (jitter, no secret)
        raise AssertionError("attempts is at least 1")


def status(error: ClientError) -> int:
    """The HTTP status of S3's answer."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _typed(error: ClientError, where: str, pointer: str | None) -> PeelboundError:
    code = error.response.get("Error", {}).get("Code", "")
    http = status(error)
    detail = f"{where}: {error.operation_name} was answered {http} {code}: {error.response['Error'].get('Message', '')}"
    if code in _FULL or http == 507:
        return StorageFull(detail, remedy="Free space in the bucket, or raise its quota.")
    if http >= 500 or http == 429 or code in _PASSING:
        return StorageUnavailable(detail, pointer=pointer)
    return StorageDenied(detail, remedy=_DENIED_REMEDY, pointer=pointer)


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


@functools.lru_cache(maxsize=16)
def _client(access: S3Access, pid: int) -> "S3Client":  # noqa: ARG001 (a forked child must not share sockets)
    own_server = access.endpoint_url is not None
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=access.endpoint_url,
        region_name=access.region or ("us-east-1" if own_server else None),
        aws_access_key_id=_reveal(access.access_key_id),
        aws_secret_access_key=_reveal(access.secret_access_key),
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if own_server else "auto"},
            retries={"mode": "standard", "total_max_attempts": access.attempts},
            # Servers other than AWS often refuse the checksum trailers that boto3 adds by itself; our SHA-256 covers.
            request_checksum_calculation="when_required" if own_server else "when_supported",
            response_checksum_validation="when_required" if own_server else "when_supported",
            connect_timeout=5,
            read_timeout=60,
            tcp_keepalive=True,
            max_pool_connections=32,
        ),
    )
    # An upload would first ask for "100 Continue", and botocore (seen in 1.44) reads for ever when the connection is
    # cut in the middle of that answer: AWSConnection._consume_headers does not know the end of the stream.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    return client
