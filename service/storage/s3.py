"""Object storage in S3, or in any server that speaks its protocol."""

import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from peelbound.service.storage.base import ObjectInfo, check_key, check_prefix
from peelbound.service.storage.directory import disk_errors, staged_beside
from peelbound.service.storage.s3_access import S3Access, status
from peelbound.workers.errors import ObjectCorrupt, ObjectMissing

_SHA256 = "sha256"
_WRITER = "writer"
_PROBE = ".check"
_STALE = timedelta(days=1)
_HEADS_AT_ONCE = 8
# The queue between network and disk holds 256 KiB pieces; boto3's default of 1000 would be a quarter of a gigabyte.
_TRANSFER = TransferConfig(
    multipart_threshold=16 << 20, multipart_chunksize=8 << 20, max_concurrency=4, max_io_queue=64
)


@dataclass(frozen=True)
class S3Store:
    """Objects under `prefix` in `bucket`, their SHA-256 in their metadata.

    S3 itself makes an object visible only when whole, and metadata come with it. Uploads that a crash cut off are
    invisible; `clean` gives their room back after a day, as a lifecycle rule of the bucket would
    (AbortIncompleteMultipartUpload).
    """

    bucket: str
    prefix: str
    access: S3Access

    def put(self, key: str, data: bytes, *, media_type: str = "application/octet-stream") -> ObjectInfo:
        """See `ObjectStore.put`."""
        return self._upload(key, io.BytesIO(data), media_type)

    def put_file(self, key: str, path: Path, *, media_type: str = "application/octet-stream") -> ObjectInfo:
        """See `ObjectStore.put_file`. Reads the file twice: the checksum travels ahead of the bytes."""
        with path.open("rb") as source:
            return self._upload(key, source, media_type)

    def put_if_absent(self, key: str, data: bytes, *, media_type: str = "application/octet-stream") -> bool:
        """See `ObjectStore.put_if_absent`.

        A retry after a lost answer finds the object that the first try wrote. The writer's mark tells that from
        another writer's object.
        """
        writer = uuid.uuid4().hex
        with self.access.errors(self.bucket):
            try:
                self.access.client().put_object(
                    Bucket=self.bucket,
                    Key=self._whole(key),
                    Body=data,
                    ContentType=media_type,
                    Metadata={_SHA256: hashlib.sha256(data).hexdigest(), _WRITER: writer},
                    IfNoneMatch="*",
                )
            except ClientError as error:
                if status(error) != 412:
                    raise
                head = self._head(key)
                return head is not None and head[1].get(_WRITER) == writer
        return True

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        with self.access.errors(self.bucket):
            try:
                data, metadata = self.access.read(self.bucket, self._whole(key))
            except ClientError as error:
                raise _missing(key, error) from None
        _verify(key, metadata, hashlib.sha256(data).hexdigest())
        return data

    def download(self, key: str, path: Path) -> None:
        """See `ObjectStore.download`."""
        with self.access.errors(self.bucket), disk_errors(path):
            head = self._head(key)
            if head is None:
                raise ObjectMissing(f"There is no object {key}.")
            with staged_beside(path) as target:
                try:
                    self.access.client().download_fileobj(self.bucket, self._whole(key), target, Config=_TRANSFER)
                except ClientError as error:
                    raise _missing(key, error) from None
                target.seek(0)
                _verify(key, head[1], hashlib.file_digest(target, "sha256").hexdigest())

    def info(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.info`."""
        with self.access.errors(self.bucket):
            head = self._head(key)
        if head is None:
            return None
        size, metadata = head
        return ObjectInfo(key, size, _checksum(key, metadata))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`. A listing tells no metadata: one HEAD per object, some at a time."""
        start = len(self._join(""))
        with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool, self.access.errors(self.bucket):
            pages = self.access.client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._join(check_prefix(prefix))):
                keys = [entry["Key"][start:] for entry in page.get("Contents", [])]
                infos = pool.map(self._listed, (key for key in keys if not key.startswith(".")))
                yield from (info for info in infos if info is not None)

    def bytes_under(self, prefix: str) -> int:
        """See `ObjectStore.bytes_under`. Listings tell sizes, a thousand objects a request."""
        with self.access.errors(self.bucket):
            pages = self.access.client().get_paginator("list_objects_v2")
            return sum(
                entry["Size"]
                for page in pages.paginate(Bucket=self.bucket, Prefix=self._join(check_prefix(prefix)))
                for entry in page.get("Contents", [])
            )

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with self.access.errors(self.bucket):
            self.access.client().delete_object(Bucket=self.bucket, Key=self._whole(key))

    def link(self, key: str, *, seconds: int, filename: str, media_type: str) -> str | None:
        """See `ObjectStore.link`. The answer carries `media_type` and saves as `filename`."""
        with self.access.errors(self.bucket):
            return self.access.client().generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self.bucket,
                    "Key": self._whole(key),
                    "ResponseContentType": media_type,
                    "ResponseContentDisposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
                },
                ExpiresIn=seconds,
            )

    def clean(self) -> int:
        """See `ObjectStore.clean`: multipart uploads under the prefix that were begun long ago."""
        oldest = datetime.now(UTC) - _STALE
        removed = 0
        with self.access.errors(self.bucket):
            client = self.access.client()
            pages = client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._join("")):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < oldest:
                        client.abort_multipart_upload(
                            Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        removed += 1
        return removed

    def check(self) -> None:
        """See `ObjectStore.check`. Writes one small object, always the same and not listed."""
        with self.access.errors(self.bucket):
            self.access.client().put_object(Bucket=self.bucket, Key=self._join(_PROBE), Body=b"")

    def _whole(self, key: str) -> str:
        return self._join(check_key(key))

    def _join(self, rest: str) -> str:
        return f"{self.prefix}/{rest}" if self.prefix else rest

    def _head(self, key: str) -> tuple[int, dict[str, str]] | None:
        """Size and metadata. A bucket that is not there looks the same as a missing key; `check` tells them apart."""
        try:
            head = self.access.client().head_object(Bucket=self.bucket, Key=self._whole(key))
        except ClientError as error:
            if status(error) == 404:
                return None
            raise
        return head["ContentLength"], head["Metadata"]

    def _listed(self, key: str) -> ObjectInfo | None:
        with self.access.errors(self.bucket):
            head = self._head(key)
        return head and ObjectInfo(key, head[0], head[1].get(_SHA256, ""))

    def _upload(self, key: str, source: io.BufferedReader | io.BytesIO, media_type: str) -> ObjectInfo:
        sha256 = hashlib.file_digest(source, "sha256").hexdigest()
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        with self.access.errors(self.bucket):
            self.access.client().upload_fileobj(
                source,
                self.bucket,
                self._whole(key),
                ExtraArgs={"ContentType": media_type, "Metadata": {_SHA256: sha256}},
                Config=_TRANSFER,
            )
        return ObjectInfo(key, size, sha256)


def _missing(key: str, error: ClientError) -> Exception:
    """`ObjectMissing` when that is what S3 says; a missing bucket stays the error it is."""
    code = error.response["Error"].get("Code")
    return ObjectMissing(f"There is no object {key}.") if code in {"NoSuchKey", "404"} else error


def _checksum(key: str, metadata: dict[str, str]) -> str:
    if _SHA256 not in metadata:
        raise ObjectCorrupt(f"The object {key} carries no checksum: Peelbound did not write it.")
    return metadata[_SHA256]


def _verify(key: str, metadata: dict[str, str], sha256: str) -> None:
    stored = _checksum(key, metadata)
    if sha256 != stored:
        raise ObjectCorrupt(f"The object {key} has SHA-256 {sha256}; stored was {stored}.")
