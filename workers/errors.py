"""Every error that Peelbound raises on purpose, typed by who can mend it.

A `UserError` is final: the request or the checkpoint must change. An `InfrastructureError` may pass: the audit is tried
again. Both survive pickling (they cross process boundaries inside Ray).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class PeelboundError(Exception):
    """Base of all deliberate errors.

    Attributes:
        slug: stable machine name, e.g. ``checkpoint-shard-missing``; becomes the problem type on the wire.
        detail: what is wrong, with the names and numbers at hand.
        remedy: what the reader can do about it.
        pointer: JSON pointer of the request's field at fault (``/checkpoint``), or None.
        extra: further JSON-able members of the problem document.
    """

    slug = "internal"
    title = "Internal error"

    def __init__(
        self, detail: str, *, remedy: str = "", pointer: str | None = None, slug: str | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.pointer = pointer
        self.extra = extra
        if slug is not None:
            self.slug = slug

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.detail, self.remedy, self.pointer, self.slug, self.extra))

    def __str__(self) -> str:
        return f"{self.detail} {self.remedy}".strip()


@contextmanager
def pointing(pointer: str) -> Iterator[None]:
    """Where another checkpoint than the audited one is read: errors that point to ``/checkpoint`` point here."""
    try:
        yield
    except PeelboundError as error:
        if error.pointer == "/checkpoint":
            error.pointer = pointer
        raise


def _rebuild(
    cls: type[PeelboundError], detail: str, remedy: str, pointer: str | None, slug: str, extra: dict[str, Any]
) -> PeelboundError:
    return cls(detail, remedy=remedy, pointer=pointer, slug=slug, **extra)


class UserError(PeelboundError):
    """The request cannot be carried out as it stands; trying again changes nothing."""

    slug = "bad-request"
    title = "The request cannot be carried out"


class RequestError(UserError):
    """A field of the request is out of range or contradicts another (slug ``request-…``)."""

    slug = "request-invalid"
    title = "The request is not valid"


class UriRefused(UserError):
    """A URI outside the allow-list, malformed, or leaving it through ``..`` or a symlink."""

    slug = "uri-refused"
    title = "The URI is not allowed"


class CheckpointError(UserError):
    """The checkpoint cannot be audited as it is (slug ``checkpoint-…`` says how)."""

    slug = "checkpoint-invalid"
    title = "The checkpoint cannot be read"


class CheckpointChanged(CheckpointError):
    """Bytes of the checkpoint changed while the audit was reading it."""

    slug = "checkpoint-changed"
    title = "The checkpoint changed while it was read"


class UnsupportedModel(CheckpointError):
    """The architecture is not a decoder-only transformer that can be peeled."""

    slug = "model-unsupported"
    title = "The architecture is not supported"


class CalibrationError(UserError):
    """The calibration data are empty, unreadable, or do not fit the model (slug ``calibration-…``)."""

    slug = "calibration-invalid"
    title = "The calibration data cannot be used"


class DoesNotFit(UserError):
    """Work that no worker has the memory for, even with one grain on the device.

    `extra['bytes_needed']` says what it takes at least, `extra['bytes_available']` what a worker has.
    """

    slug = "memory-exceeded"
    title = "The audit does not fit into the workers' memory"


class InfrastructureError(PeelboundError):
    """Something around the audit failed (storage, a node, memory); the audit is tried again with backoff."""

    slug = "infrastructure"
    title = "The infrastructure failed"


class StorageUnavailable(InfrastructureError):
    """Object storage did not answer, answered 5xx, or broke off."""

    slug = "storage-unavailable"
    title = "Object storage is not available"


class StorageFull(InfrastructureError):
    """No room is left where results are written."""

    slug = "storage-full"
    title = "Object storage is full"


class StorageDenied(UserError):
    """Object storage refused the credentials or the permission is missing."""

    slug = "storage-denied"
    title = "Object storage refused access"


class ObjectMissing(PeelboundError):
    """No object under this key."""

    slug = "object-missing"
    title = "No such object"


class ObjectCorrupt(InfrastructureError):
    """An object's bytes do not match its checksum."""

    slug = "object-corrupt"
    title = "A stored object is corrupt"


class OutOfMemory(InfrastructureError):
    """Memory ran out that others had taken: the work fits a worker that has its memory to itself."""

    slug = "out-of-memory"
    title = "Not enough memory"


class WorkerLost(InfrastructureError):
    """A worker process or its node died."""

    slug = "worker-lost"
    title = "A worker was lost"


class Cancelled(PeelboundError):
    """The audit was cancelled; raised where the work notices it."""

    slug = "cancelled"
    title = "The audit was cancelled"
