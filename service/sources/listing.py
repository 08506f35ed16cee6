"""What the two kinds of source have in common: files as they were first seen, and the errors when they are not so."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from peelbound.workers.errors import CheckpointChanged, CheckpointError

SETTLED_SECONDS = 2.0
"""A file younger than this may be written again without its time stamp showing it."""


@dataclass(frozen=True)
class SeenFile:
    """One file as it was first seen.

    Attributes:
        place: where its bytes are: a path without symlinks, or a whole key.
        size: in bytes.
        version: what tells it from any other version: of `stat`, or the etag.
    """

    place: str
    size: int
    version: str


@dataclass(frozen=True)
class Listing:
    """The files of a source. Immutable: the versions seen when it was made travel with it to other processes.

    Attributes:
        where: canonical URI, for errors.
        pointer: JSON pointer of the request's field, for errors.
        seen: the files by name.
        settled: every file was older than `SETTLED_SECONDS` when it was seen.
    """

    where: str
    pointer: str
    seen: Mapping[str, SeenFile]
    settled: bool

    def files(self) -> dict[str, int]:
        """See `ByteSource.files`."""
        return {name: file.size for name, file in self.seen.items()}

    def version(self, name: str) -> str:
        """See `ByteSource.version`."""
        return self._find(name).version

    def memo_key(self) -> str | None:
        """See `ByteSource.memo_key`."""
        if not self.settled:
            return None
        identities = [(name, file.place, file.size, file.version) for name, file in sorted(self.seen.items())]
        return hashlib.sha256(json.dumps([self.where, identities]).encode()).hexdigest()

    def _find(self, name: str) -> SeenFile:
        if name not in self.seen:
            raise CheckpointError(
                f"There is no file {name} in {self.where}.",
                remedy="Copy the whole checkpoint there.",
                pointer=self.pointer,
                slug="checkpoint-file-missing",
            )
        return self.seen[name]

    def _find_range(self, name: str, start: int, length: int) -> SeenFile:
        file = self._find(name)
        if start < 0 or length < 0 or start + length > file.size:
            raise CheckpointError(
                f"{name} in {self.where} has {file.size} bytes; bytes {start} to {start + length} are wanted.",
                remedy="The file is cut off or its header is wrong: copy or save it again.",
                pointer=self.pointer,
                slug="checkpoint-truncated",
            )
        return file

    def _changed(self, name: str) -> CheckpointChanged:
        return CheckpointChanged(
            f"{name} in {self.where} is not the file any more that it was when the audit first saw it.",
            remedy="Submit the audit again when the checkpoint is complete; write checkpoints elsewhere and rename.",
            pointer=self.pointer,
        )
