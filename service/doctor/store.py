"""Object storage: which of endpoint, credentials, bucket and permission is wrong, and whether it keeps its promises."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from ulid import ULID

from peelbound.service.doctor.clock import skew
from peelbound.service.doctor.findings import Finding, ok, skipped, wrong
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.storage.open import open_store
from peelbound.service.storage.s3 import S3Store
from peelbound.service.storage.s3_access import NO_CREDENTIALS, S3Access, status
from peelbound.workers.errors import PeelboundError

_DATA = b"peelbound doctor\n"
_PASSES = 2
"""A doctor who tries five times keeps the patient waiting."""

_KEY = "PEELBOUND_S3_ACCESS_KEY_ID"
_SECRET = "PEELBOUND_S3_SECRET_ACCESS_KEY"  # noqa: S105 - a variable's name
_MEANINGS = {
    "NoSuchBucket": ("There is no bucket of this name", "Make it, or mend PEELBOUND_STORE_URL."),
    "InvalidAccessKeyId": ("The access key is not known there", f"Mend {_KEY} (or the environment's AWS credentials)."),
    "SignatureDoesNotMatch": ("The secret key is wrong", f"Mend {_SECRET}, which must belong to {_KEY}."),
    "InvalidToken": ("The session token is wrong", "Renew the environment's AWS credentials."),
    "ExpiredToken": ("The credentials have expired", "Renew the environment's AWS credentials."),
    "AuthorizationHeaderMalformed": ("The region is wrong", "Set PEELBOUND_S3_REGION to the bucket's."),
    "PermanentRedirect": ("The bucket is in another region", "Set PEELBOUND_S3_REGION to the bucket's."),
    "RequestTimeTooSkewed": ("This machine's clock is too far off", "Run a time service (chrony, systemd-timesyncd)."),
    "AccessDenied": (
        "The credentials are known, but may not list this bucket (or the bucket is another account's)",
        "Grant s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject, or mend PEELBOUND_STORE_URL.",
    ),
}


def examine_store(settings: Settings) -> Iterator[Finding]:
    """Findings `store`, `store clock` and `store promises`."""
    try:
        store = open_store(settings)
    except PeelboundError as error:
        yield wrong("store", error.detail, error.remedy)
        return
    if isinstance(store, S3Store):
        store = replace(store, access=replace(store.access, attempts=_PASSES))
        reached = list(_examine_bucket(store.access, store.bucket, "store"))
    else:
        reached = [_writable(store, settings.resolved_store_url), skipped("store clock", "A directory has none.")]
    yield from reached
    if reached[0].status == "ok":
        yield _promises(store)


def examine_bucket(access: S3Access, bucket: str, part: str) -> Finding:
    """Whether a bucket can be listed, and if not, what stands in the way."""
    return next(iter(_examine_bucket(replace(access, attempts=_PASSES), bucket, part)))


def _examine_bucket(access: S3Access, bucket: str, part: str) -> Iterator[Finding]:
    where = f"{access.endpoint_url or 'AWS S3'}, bucket {bucket}"
    asked = time.time()
    try:
        answer = access.client().list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as error:
        yield wrong(part, *_refusal(error, where))
    except NO_CREDENTIALS as error:
        remedy = f"Set {_KEY} and {_SECRET}, or give the process AWS credentials."
        yield wrong(part, f"{where}: no credentials: {error}.", remedy)
    except ResponseParserError:
        yield wrong(part, f"{where}: what answers there is no S3 server.", "Mend PEELBOUND_S3_ENDPOINT_URL.")
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        remedy = "See that PEELBOUND_S3_ENDPOINT_URL (address, port, http or https) is right and can be reached."
        yield wrong(part, f"{where}: the endpoint does not answer: {error}.", remedy)
    else:
        yield ok(part, f"{where} can be listed.")
        told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if told is None:
            yield skipped(f"{part} clock", "The server tells no time.")
        else:
            way = (time.time() - asked) / 2
            ahead = parsedate_to_datetime(told).timestamp() + 0.5 - asked - way  # the header has whole seconds
            yield skew(f"{part} clock", "The store's clock", ahead, way + 0.5)


def _refusal(error: ClientError, where: str) -> tuple[str, str]:
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "")
    if code in _MEANINGS:
        meaning, remedy = _MEANINGS[code]
        return f"{where}: {meaning} ({code}).", remedy
    if "x-amz-request-id" not in error.response["ResponseMetadata"].get("HTTPHeaders", {}):
        return f"{where}: what answers there is no S3 server.", "Mend PEELBOUND_S3_ENDPOINT_URL."
    if status(error) >= 500:
        return f"{where}: the server answers {status(error)} {code}: {message}.", "See to the server; try again later."
    return (
        f"{where}: the server answers {status(error)} {code}: {message}.",
        "See that PEELBOUND_S3_ENDPOINT_URL is an S3 server's, then the bucket and the credentials.",
    )


def _writable(store: ObjectStore, url: str) -> Finding:
    try:
        store.check()
    except PeelboundError as error:
        return wrong("store", error.detail, error.remedy)
    return ok("store", f"{url} takes writes.")


def _promises(store: ObjectStore) -> Finding:
    """Write, read back, write only if absent, delete: what everything rests on."""
    part, key = "store promises", f"doctor/{ULID()}"
    steps: list[tuple[str, Callable[[], bool]]] = [
        ("write an object that is not there", lambda: store.put_if_absent(key, _DATA)),
        ("read it back as it was", lambda: store.get(key) == _DATA),
        ("refuse to write it a second time (If-None-Match)", lambda: not store.put_if_absent(key, _DATA)),
        ("replace it", lambda: store.put(key, _DATA * 2).bytes == 2 * len(_DATA)),
        ("delete it", lambda: _gone(store, key)),
    ]
    for step, kept in steps:
        try:
            if not kept():
                remedy = "Use a store that keeps conditional writes and reads its own writes, as S3 does."
                return wrong(part, f"The store does not {step}.", remedy)
        except PeelboundError as error:
            return wrong(part, f"To {step}: {error.detail}", error.remedy)
    return ok(part, "Writes, reads back, writes only if absent, replaces, deletes.")


def _gone(store: ObjectStore, key: str) -> bool:
    store.delete(key)
    return store.info(key) is None
