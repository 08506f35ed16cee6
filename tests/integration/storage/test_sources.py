"""What a source of checkpoint bytes promises, on a directory and on a real S3 server."""

import os
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from peelbound.service.settings import Settings
from peelbound.service.sources import open_source, read_calibration
from peelbound.service.uris import AllowList, ResolvedUri
from peelbound.workers.errors import CalibrationError, CheckpointChanged, CheckpointError
from tests.s3_server import S3Server
from tests.waiting import until


class Place(Protocol):
    """Somewhere a user keeps files."""

    settings: Settings

    def write(self, name: str, data: bytes) -> None: ...
    def remove(self, name: str) -> None: ...
    def uri(self, name: str = "") -> ResolvedUri: ...


@dataclass
class Directory:
    root: Path
    settings: Settings

    def write(self, name: str, data: bytes) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.stat().st_mtime_ns if file.exists() else 0
        file.write_bytes(data)
        if file.stat().st_mtime_ns <= before:  # the clock's grain: the case that `memo_key` refuses to rely on
            os.utime(file, ns=(before + 1, before + 1))

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    def uri(self, name: str = "") -> ResolvedUri:
        return AllowList([str(self.root)]).resolve(str(self.root / name), "/checkpoint")


@dataclass
class Bucket:
    server: S3Server
    name: str
    settings: Settings

    def write(self, name: str, data: bytes) -> None:
        self.server.access().client().put_object(Bucket=self.name, Key=name, Body=data)

    def remove(self, name: str) -> None:
        self.server.access().client().delete_object(Bucket=self.name, Key=name)

    def uri(self, name: str = "") -> ResolvedUri:
        return AllowList([f"s3://{self.name}"]).resolve(f"s3://{self.name}/{name}", "/checkpoint")


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "directory":
        return Directory(tmp_path, Settings(state_dir=tmp_path))
    server: S3Server = request.getfixturevalue("s3_server")
    access = server.access()
    settings = Settings(
        s3_endpoint_url=access.endpoint_url,
        s3_access_key_id=access.access_key_id,
        s3_secret_access_key=access.secret_access_key,
    )
    return Bucket(server, server.new_bucket(), settings)


def test_lists_the_files_of_one_directory(place: Place) -> None:
    place.write("run/step-1/config.json", b"{}")
    place.write("run/step-1/model.safetensors", bytes(1000))
    place.write("run/step-1/empty", b"")
    place.write("run/step-1/optimizer/state.bin", bytes(10))
    place.write("run/step-10/config.json", b"{  }")
    source = open_source(place.uri("run/step-1"), place.settings)
    assert source.files() == {"config.json": 2, "model.safetensors": 1000, "empty": 0}
    assert len({source.version(name) for name in source.files()}) == 3
    assert source.read("empty", 0, 0) == b""


def test_reads_ranges(place: Place) -> None:
    size = 20 << 20  # several parts on S3
    data = random.Random(1).randbytes(size)
    place.write("c/weights", data)
    source = open_source(place.uri("c"), place.settings)
    part = 8 << 20
    spans = [(0, 0), (0, 1), (size - 1, 1), (size, 0), (0, size), (part - 1, 2), (part, part), (5, part), (3, 2 * part)]
    with ThreadPoolExecutor(4) as pool:
        for (start, length), read in zip(
            spans, pool.map(lambda span: source.read("weights", *span), spans), strict=True
        ):
            assert read == data[start : start + length], (start, length)


@pytest.mark.parametrize(("start", "length"), [(0, 11), (10, 1), (11, 0), (-1, 2), (2, -1)])
def test_ranges_beyond_the_file_are_refused(place: Place, start: int, length: int) -> None:
    place.write("c/weights", bytes(10))
    source = open_source(place.uri("c"), place.settings)
    with pytest.raises(CheckpointError, match=r"weights .* has 10 bytes") as caught:
        source.read("weights", start, length)
    assert caught.value.slug == "checkpoint-truncated"
    assert caught.value.pointer == "/checkpoint"


def test_a_file_that_is_not_there_is_named(place: Place) -> None:
    place.write("c/config.json", b"{}")
    source = open_source(place.uri("c"), place.settings)
    for act in (lambda: source.read("weights", 0, 1), lambda: source.version("weights")):
        with pytest.raises(CheckpointError, match="weights") as caught:
            act()
        assert caught.value.slug == "checkpoint-file-missing"


def test_a_missing_checkpoint_and_a_single_file_are_told_apart(place: Place) -> None:
    place.write("c/config.json", b"{}")
    for name, slug in {"d": "checkpoint-missing", "c/config.json": "checkpoint-not-directory"}.items():
        with pytest.raises(CheckpointError, match=name) as caught:
            open_source(place.uri(name), place.settings)
        assert caught.value.slug == slug
        assert caught.value.pointer == "/checkpoint"


@pytest.mark.parametrize("after", [b"after!", b"longer than before", b"short"])
def test_a_file_written_again_is_noticed(place: Place, after: bytes) -> None:
    place.write("c/weights", b"before")
    place.write("c/other", b"other")
    source = open_source(place.uri("c"), place.settings)
    assert source.read("weights", 0, 6) == b"before"
    place.write("c/weights", after)
    for each in (source, pickle.loads(pickle.dumps(source))):
        with pytest.raises(CheckpointChanged, match="weights") as caught:
            each.read("weights", 0, 3)
        assert caught.value.slug == "checkpoint-changed"
        assert each.read("other", 0, 5) == b"other"
    fresh = open_source(place.uri("c"), place.settings)
    assert fresh.read("weights", 0, len(after)) == after
    assert fresh.version("weights") != source.version("weights")


def test_a_large_file_written_again_is_noticed_in_every_part(place: Place) -> None:
    place.write("c/weights", bytes(20 << 20))
    source = open_source(place.uri("c"), place.settings)
    place.write("c/weights", b"\x01" + bytes((20 << 20) - 1))
    with pytest.raises(CheckpointChanged):
        source.read("weights", 0, 20 << 20)
    with pytest.raises(CheckpointChanged):
        source.read("weights", 19 << 20, 1)


def test_a_file_taken_away_is_noticed(place: Place) -> None:
    place.write("c/weights", b"before")
    source = open_source(place.uri("c"), place.settings)
    place.remove("c/weights")
    with pytest.raises(CheckpointChanged, match="weights"):
        source.read("weights", 0, 6)


def test_digests_are_memoised_only_for_files_that_have_settled(place: Place) -> None:
    place.write("c/weights", b"before")
    assert open_source(place.uri("c"), place.settings).memo_key() is None
    first = settled_key(place)
    assert settled_key(place) == first
    place.write("c/weights", b"after!")
    assert settled_key(place) != first


def settled_key(place: Place) -> str | None:
    return until(lambda: open_source(place.uri("c"), place.settings).memo_key())


def test_reads_calibration_files_by_name(place: Place) -> None:
    place.write("text/b.txt", b"second")
    place.write("text/a.jsonl", b'{"text": "first"}')
    place.write("text/notes.md", b"not calibration data")
    place.write("text/deeper/c.txt", b"elsewhere")
    files = read_calibration(place.uri("text"), place.settings)
    assert files == [("a.jsonl", b'{"text": "first"}'), ("b.txt", b"second")]
    assert read_calibration(place.uri("text/b.txt"), place.settings) == [("b.txt", b"second")]


def test_calibration_data_are_bounded(place: Place) -> None:
    place.write("text/a.txt", bytes(600))
    place.write("text/b.txt", bytes(600))
    assert len(read_calibration(place.uri("text"), place.settings, 1200)) == 2
    small = place.settings.model_copy(update={"max_calibration_bytes": 1199})
    for settings, bound in ((small, None), (place.settings, 1199)):
        with pytest.raises(CalibrationError, match=r"1200 bytes.* 1199") as caught:
            read_calibration(place.uri("text"), settings, bound)
        assert caught.value.slug == "calibration-too-large"


@pytest.mark.parametrize("name", ["nowhere", "text/notes.md", "notes"])
def test_missing_calibration_data_are_named(place: Place, name: str) -> None:
    place.write("text/notes.md", b"x")
    place.write("notes/notes.md", b"x")
    with pytest.raises(CalibrationError, match=name) as caught:
        read_calibration(place.uri(name), place.settings)
    assert caught.value.slug == "calibration-missing"
    assert ".jsonl" in caught.value.remedy


def test_no_file_stays_open(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(100))
    source = open_source(AllowList([str(tmp_path)]).resolve(str(tmp_path), "/checkpoint"), Settings())
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    for start in range(100):
        source.read("weights", start, 1)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
