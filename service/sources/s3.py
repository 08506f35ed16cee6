"""Files under a prefix in S3, read by ranges of one version."""

import email.utils
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from botocore.exceptions import ClientError

from peelbound.service.sources.listing import SETTLED_SECONDS, Listing, SeenFile
from peelbound.service.storage.s3_access import S3Access, status
from peelbound.service.uris import S3Uri

PART_BYTES = 8 << 20
"""Longer reads are split into parts of this size, fetched at once."""
_PARTS_AT_ONCE = 8
_OTHER_VERSION = frozenset({404, 412, 416})


@dataclass(frozen=True)
class S3Source(Listing):
    """See `ByteSource`. Every GET is tied to the first-seen etag by If-Match."""

    bucket: str
    access: S3Access

    @classmethod
    def of_prefix(cls, uri: S3Uri, access: S3Access) -> Self:
        """The objects directly under the prefix, as in a directory; none when there are none."""
        folder = f"{uri.key}/" if uri.key else ""
        seen: dict[str, SeenFile] = {}
        settled = True
        with access.errors(uri.bucket, pointer=uri.pointer):
            pages = access.client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=uri.bucket, Prefix=folder, Delimiter="/"):
                for entry in page.get("Contents", []):
                    if name := entry["Key"].removeprefix(folder):  # the folder itself may be an empty object
                        seen[name] = SeenFile(entry["Key"], entry["Size"], entry["ETag"])
                        settled &= _settled(entry["LastModified"], page["ResponseMetadata"]["HTTPHeaders"])
        return cls(uri.uri, uri.pointer, seen, settled, uri.bucket, access)

    @classmethod
    def of_object(cls, uri: S3Uri, access: S3Access) -> Self:
        """The one object that the URI names; none when there is none."""
        folder, _, name = uri.key.rpartition("/")
        none = cls(S3Uri(uri.bucket, folder, uri.pointer).uri, uri.pointer, {}, True, uri.bucket, access)
        if not name:
            return none
        with access.errors(uri.bucket, pointer=uri.pointer):
            try:
                head = access.client().head_object(Bucket=uri.bucket, Key=uri.key)
            except ClientError as error:
                if status(error) == 404:
                    return none
                raise
        seen = {name: SeenFile(uri.key, head["ContentLength"], head["ETag"])}
        settled = _settled(head["LastModified"], head["ResponseMetadata"]["HTTPHeaders"])
        return cls(none.where, uri.pointer, seen, settled, uri.bucket, access)

    def read(self, name: str, start: int, length: int) -> bytes:
        """See `ByteSource.read`. Holds up to twice `length` while the parts are joined."""
        file = self._find_range(name, start, length)
        spans = [(at, min(PART_BYTES, start + length - at)) for at in range(start, start + length, PART_BYTES)]
        if len(spans) <= 1:
            return b"".join(self._read_part(name, file, span) for span in spans)
        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            return b"".join(pool.map(lambda span: self._read_part(name, file, span), spans))

    def _read_part(self, name: str, file: SeenFile, span: tuple[int, int]) -> bytes:
        with self.access.errors(self.bucket, pointer=self.pointer):
            try:
                data, _ = self.access.read(self.bucket, file.place, span=span, etag=file.version)
            except ClientError as error:
                if status(error) in _OTHER_VERSION:
                    raise self._changed(name) from None
                raise
        if len(data) != span[1]:
            raise self._changed(name)
        return data


def _settled(modified: datetime, headers: Mapping[str, str]) -> bool:
    """Whether an object was old enough when the server answered, by the server's own clock."""
    return email.utils.parsedate_to_datetime(headers["date"]) - modified > timedelta(seconds=SETTLED_SECONDS)
