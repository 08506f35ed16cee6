"""Reading from a byte source: bounded whole files, and many ranges at once, with every byte counted."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from peelbound.workers.errors import CheckpointError
from peelbound.workers.source import ByteSource

CONCURRENT_READS = 8
"""One connection to object storage gives a fraction of what a machine can take."""
CHUNK_BYTES = 8 << 20
"""Longest single read: what the readers hold besides the part is at most this times `CONCURRENT_READS`."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Range:
    """Bytes of a file and where they go."""

    file: str
    start: int
    length: int
    destination: int


class Reader:
    """A byte source's files, with a count of what was read. Thread-safe."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._lock = Lock()
        self._bytes_read = 0
        self.files = source.files()

    @property
    def bytes_read(self) -> int:
        """Bytes read from the source so far."""
        with self._lock:
            return self._bytes_read

    def read(self, file: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes of `file` from `start`; raises what the source raises."""
        data = self._source.read(file, start, length)
        with self._lock:
            self._bytes_read += len(data)
        return data

    def read_whole(self, file: str, *, limit: int, slug: str) -> bytes:
        """A small file as a whole.

        Raises:
            CheckpointError: with `slug`, when it is larger than `limit`.
        """
        size = self.files[file]
        if size > limit:
            raise CheckpointError(
                f"{file} has {size:,} bytes; at most {limit:,} are read.",
                slug=slug,
                remedy="Check that the file is what its name says.",
                pointer="/checkpoint",
            )
        return self.read(file, 0, size)

    def read_into(self, out: NDArray[np.uint8], ranges: Iterable[Range]) -> None:
        """Read every range to its destination in `out`, several at a time."""

        def fill(piece: Range) -> None:
            data = self.read(piece.file, piece.start, piece.length)
            out[piece.destination : piece.destination + piece.length] = np.frombuffer(data, np.uint8)

        self.at_once(fill, [piece for whole in coalesced(ranges) for piece in chunks(whole)])

    def at_once(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`work` on each item, several at a time; the first error ends it."""
        if len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(CONCURRENT_READS, len(items)), thread_name_prefix="checkpoint") as pool:
            return list(pool.map(work, items))


def coalesced(ranges: Iterable[Range]) -> list[Range]:
    """Join ranges that touch in the file and in the destination: no byte between them is read for nothing."""
    joined: list[Range] = []
    for piece in ranges:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.file == piece.file
            and last.start + last.length == piece.start
            and last.destination + last.length == piece.destination
        ):
            joined[-1] = Range(last.file, last.start, last.length + piece.length, last.destination)
        else:
            joined.append(piece)
    return joined


def chunks(piece: Range) -> list[Range]:
    """Cut a range into reads of at most `CHUNK_BYTES`."""
    return [
        Range(piece.file, piece.start + at, min(CHUNK_BYTES, piece.length - at), piece.destination + at)
        for at in range(0, piece.length, CHUNK_BYTES)
    ]
