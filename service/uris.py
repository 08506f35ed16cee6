"""Which URIs a request may name: parsing, and the allow-list that every checkpoint and calibration file must pass."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from peelbound.service.settings import Settings
from peelbound.workers.errors import UriRefused, UserError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_FORMS = "Give s3://bucket/prefix, file:///directory or an absolute path, without `.` and `..`."


@dataclass(frozen=True)
class LocalUri:
    """A place in the file system that the allow-list lets through.

    Attributes:
        path: absolute, its symlinks resolved.
        roots: resolved directories that everything reached through `path` must lie under.
        pointer: JSON pointer of the request's field, for errors.
    """

    path: Path
    roots: tuple[Path, ...]
    pointer: str

    @property
    def uri(self) -> str:
        """In canonical form: `file:///…`."""
        return self.path.as_uri()

    def follow(self, name: str) -> Path:
        """The file `name` in this directory, its symlinks resolved.

        Raises:
            UriRefused: they lead outside the allow-list.
        """
        target = Path(os.path.realpath(self.path / name))  # a loop is no error: it ends where it was found
        if not _any_holds(self.roots, target):
            raise _refused(f"{name} in {self.path} is a link that leaves what may be read.", self.pointer)
        return target


@dataclass(frozen=True)
class S3Uri:
    """A key or prefix in a bucket that the allow-list lets through. `key` has no slash at either end."""

    bucket: str
    key: str
    pointer: str

    @property
    def uri(self) -> str:
        """In canonical form: `s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"


ResolvedUri = LocalUri | S3Uri


class AllowList:
    """URI prefixes that may be read. A prefix covers itself and what lies below it, by whole path components.

    Files must pass twice: as written (so that nobody learns what exists elsewhere), and with symlinks resolved. A
    prefix that is itself a symlink stands for its target too.
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        """Parse the prefixes: `file:///…`, absolute paths, `s3://bucket` or `s3://bucket/prefix`.

        Raises:
            UserError: a prefix is none of these (slug ``settings-invalid``).
        """
        self._directories: list[Path] = []
        self._buckets: list[tuple[str, PurePosixPath]] = []
        for prefix in prefixes:
            try:
                place = _parse(prefix)
            except ValueError as error:
                raise UserError(
                    f"PEELBOUND_ALLOW holds {prefix!r}: {error}.", remedy=_FORMS, slug="settings-invalid"
                ) from None
            if isinstance(place, Path):
                self._directories.append(place)
            else:
                self._buckets.append((place[0], PurePosixPath(place[1])))

    @classmethod
    def check(cls, settings: Settings) -> None:
        """See that every prefix of the settings is one, before anything starts.

        Raises:
            UserError: one is not (slug ``settings-invalid``).
        """
        for prefixes in (settings.allow, *settings.tenant_allow.values()):
            cls(prefixes)

    def resolve(self, uri: str, pointer: str) -> ResolvedUri:
        """The place that a request's URI names. Whether anything is there is for `sources` to find.

        Args:
            uri: `file:///…` (percent-encoded), an absolute path or `s3://bucket/key` (both taken literally).
            pointer: JSON pointer of the request's field, for errors.

        Raises:
            UriRefused: it is malformed, outside the allow-list, or a symlink on its way leaves the allow-list.
        """
        try:
            place = _parse(uri)
        except ValueError as error:
            raise UriRefused(f"{uri!r}: {error}.", remedy=_FORMS, pointer=pointer) from None
        if isinstance(place, Path):
            return self._resolve_path(uri, place, pointer)
        bucket, key = place
        if not any(bucket == b and PurePosixPath(key).is_relative_to(prefix) for b, prefix in self._buckets):
            raise _refused(f"{uri!r} is not under a prefix that may be read.", pointer)
        return S3Uri(bucket, key, pointer)

    def _resolve_path(self, uri: str, path: Path, pointer: str) -> LocalUri:
        roots = tuple(directory.resolve() for directory in self._directories)
        if not _any_holds((*self._directories, *roots), path):
            raise _refused(f"{uri!r} is not under a prefix that may be read.", pointer)
        try:
            target = path.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symlinks
            raise _refused(f"{uri!r} cannot be resolved: {error}.", pointer) from None
        if not _any_holds(roots, target):
            raise _refused(f"{uri!r} leads through a symlink to a place that may not be read.", pointer)
        return LocalUri(target, roots, pointer)


def _any_holds(directories: Iterable[Path], path: Path) -> bool:
    return any(path.is_relative_to(directory) for directory in directories)


def _refused(detail: str, pointer: str) -> UriRefused:
    return UriRefused(
        detail, remedy="Move it, or have its prefix added to PEELBOUND_ALLOW on the service.", pointer=pointer
    )


def _parse(uri: str) -> Path | tuple[str, str]:
    """A lexically clean absolute path, or bucket and key. ValueError says what is wrong with the URI."""
    if not uri.isprintable():
        raise ValueError("it holds control characters")
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError("it names no valid bucket")
        if set("?#%\\") & set(key):
            raise ValueError("a key with ? # % or \\ is not supported")
        return bucket, "/".join(_components(key))
    if uri.startswith("/"):
        return Path("/", *_components(uri[1:]))
    if not uri.startswith("file:///"):
        raise ValueError("it is neither an absolute path nor file:/// nor s3://")
    if "?" in uri or "#" in uri:
        raise ValueError("a query or fragment is not supported")
    components = _components(uri.removeprefix("file:///"))
    decoded = [unquote(component, errors="strict") for component in components]
    if any("/" in name or not name.isprintable() or name in {".", ".."} for name in decoded):
        raise ValueError("its percent-encoding hides separators, dots or control characters")
    return Path("/", *decoded)


def _components(path: str) -> list[str]:
    """The components of a path; one slash at its end is let pass, other empty components and dots are not."""
    components = path.removesuffix("/").split("/")
    if components == [""]:
        return []
    if any(component in {"", ".", ".."} for component in components):
        raise ValueError("empty components, . and .. are not allowed")
    return components
