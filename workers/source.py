"""Where a checkpoint's bytes come from: the one interface between the readers and files or object storage."""

from typing import Protocol


class ByteSource(Protocol):
    """The files of one checkpoint, read by ranges.

    Implementations are thread-safe, picklable, and keep no file or mapping open between calls (a mapping kept across
    blocks grows the resident set). The version of each file is fixed when it is first seen; a later read of another
    version raises `CheckpointChanged`, so that one audit never mixes two checkpoints.
    """

    def files(self) -> dict[str, int]:
        """Name (relative, as in the index: no directory) to size in bytes. Listed once, then remembered."""
        ...

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from offset `start`.

        Raises:
            CheckpointError: there is no such file (slug ``checkpoint-file-missing``), or the range ends beyond it
                (``checkpoint-truncated``).
            CheckpointChanged: the file is not the version first seen any more.
            StorageUnavailable: the storage did not answer.
        """
        ...

    def version(self, name: str) -> str:
        """Opaque version of the file: what `stat` or the etag tell of it; a moved checkpoint may have another."""
        ...

    def memo_key(self) -> str | None:
        """Stable hash over identity, size and version of all files, under which digests may be memoised.

        None when a file is younger than two seconds: a second write within the clock's grain would go unnoticed.
        """
        ...
