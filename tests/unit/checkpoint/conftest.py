"""What the checkpoint tests share: sources that record what is read from them, and files made by hand."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.errors import CheckpointError


@dataclass
class Files:
    """A byte source over files in memory."""

    content: dict[str, bytes]
    reads: list[tuple[str, int, int]] = field(default_factory=list)

    def files(self) -> dict[str, int]:
        return {name: len(data) for name, data in self.content.items()}

    def read(self, name: str, start: int, length: int) -> bytes:
        self.reads.append((name, start, length))
        assert 0 <= start <= start + length <= len(self.content[name]), "a read beyond the end"
        return self.content[name][start : start + length]

    def version(self, name: str) -> str:
        return str(hash(self.content[name]))

    def memo_key(self) -> str | None:
        return None

    @classmethod
    def under(cls, directory: Path) -> "Files":
        """The files that lie in a directory now."""
        return cls({path.name: path.read_bytes() for path in directory.iterdir()})


@pytest.fixture(scope="session")
def files() -> type[Files]:
    return Files


@pytest.fixture
def reader() -> Callable[[dict[str, bytes]], Reader]:
    return lambda content: Reader(Files(content))


@pytest.fixture
def safetensors_file() -> Callable[[Any, bytes], bytes]:
    """A file with this header, well-formed or not, and these data."""

    def build(header: Any, data: bytes) -> bytes:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        return len(raw).to_bytes(8, "little") + raw + data

    return build


@pytest.fixture(scope="session")
def attempt() -> Callable[[Callable[[], Any]], Any]:
    """What a call returns, or the typed error it raises; any other error fails the test."""

    def outcome(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except CheckpointError as error:
            return error

    return outcome


@pytest.fixture
def refused() -> Callable[..., CheckpointError]:
    """Run something that must be refused; every refusal says what is at fault and what to do."""

    def check(call: Callable[[], Any], slug: str, *culprits: str) -> CheckpointError:
        with pytest.raises(CheckpointError) as caught:
            call()
        error = caught.value
        assert error.slug == slug, error
        for culprit in culprits:
            assert culprit in error.detail
        assert error.remedy
        assert error.pointer == "/checkpoint"
        assert len(str(error)) < 2000
        return error

    return check
