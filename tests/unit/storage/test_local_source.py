"""Local checkpoints: symlinks as Hugging Face caches have them, and files replaced behind our back."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelbound.service.settings import Settings
from peelbound.service.sources import open_source, read_calibration
from peelbound.service.sources.local import LocalSource
from peelbound.service.uris import AllowList, LocalUri
from peelbound.workers.errors import CheckpointChanged, UriRefused
from peelbound.workers.source import ByteSource


def source_of(directory: Path, *allowed: Path) -> ByteSource:
    uri = AllowList([str(path) for path in allowed or (directory,)]).resolve(str(directory), "/checkpoint")
    return open_source(uri, Settings())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A snapshot whose files are links to blobs, as in a Hugging Face cache."""
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    (tmp_path / "hub" / "blobs" / "abc").write_bytes(b"weights")
    snapshot = tmp_path / "hub" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    return snapshot


def test_links_are_followed_where_their_targets_are_allowed(cache: Path) -> None:
    source = source_of(cache, cache.parents[1])
    assert source.files() == {"model.safetensors": 7}
    assert source.read("model.safetensors", 0, 7) == b"weights"


def test_a_file_that_leaves_the_allow_list_is_refused(cache: Path) -> None:
    with pytest.raises(UriRefused, match=r"model\.safetensors") as caught:
        source_of(cache, cache)
    assert caught.value.pointer == "/checkpoint"
    with pytest.raises(UriRefused):
        source_of(cache, cache.parent)


def test_a_calibration_file_that_leaves_the_allow_list_is_refused(cache: Path) -> None:
    (cache / "a.txt").symlink_to("/etc/hostname")
    hub = AllowList([str(cache.parents[1])])
    with pytest.raises(UriRefused):
        read_calibration(hub.resolve(str(cache), "/calibration/uri"), Settings())
    with pytest.raises(UriRefused):
        hub.resolve(str(cache / "a.txt"), "/calibration/uri")


def test_links_to_nothing_pipes_and_directories_are_no_files(cache: Path) -> None:
    (cache / "dangling").symlink_to("../../blobs/none")
    (cache / "loop").symlink_to("loop")
    (cache / "below").mkdir()
    os.mkfifo(cache / "pipe")
    assert set(source_of(cache, cache.parents[1]).files()) == {"model.safetensors"}


@pytest.fixture(params=["a file", "a directory", "nothing"])
def outside(request: pytest.FixtureRequest, cache: Path) -> Path:
    """A place outside the snapshot, and what is there."""
    place = cache.parents[1] / "outside"
    if request.param == "a file":
        place.write_bytes(b"secret")
    elif request.param == "a directory":
        place.mkdir()
    return place


@pytest.mark.parametrize("name", ["config.json", "MODEL.GGUF", ".metadata"])
def test_a_link_out_of_the_allow_list_is_refused_alike_whether_or_not_its_target_exists(
    cache: Path, outside: Path, name: str
) -> None:
    (cache / "model.safetensors").unlink()
    (cache / name).symlink_to(outside)
    with pytest.raises(UriRefused, match=rf"{name} in .* is a link that leaves"):
        source_of(cache)


def test_a_link_out_of_the_allow_list_that_nobody_would_read_is_left_out_alike(cache: Path, outside: Path) -> None:
    for name in ("model.safetensors", "a.txt"):
        (cache / name).unlink(missing_ok=True)
        (cache / name).write_bytes(b"own")
    (cache / "wandb").symlink_to(outside)
    assert set(source_of(cache).files()) == {"a.txt", "model.safetensors"}
    (cache / "model.safetensors").unlink()
    (cache / "model.safetensors").symlink_to(outside)  # no text
    texts = AllowList([str(cache)]).resolve(str(cache), "/calibration/uri")
    assert read_calibration(texts, Settings()) == [("a.txt", b"own")]


class Swapped:
    """A directory within the allow-list that somebody puts a link in the place of, to one outside."""

    def __init__(self, top: Path) -> None:
        self.allowed, self._outside = top / "allowed", top / "outside"
        self.directory = self.allowed / "below" / "checkpoint"
        self.directory.mkdir(parents=True)
        (self.directory / "file").write_bytes(b"own")
        (self._outside / "checkpoint").mkdir(parents=True)
        (self._outside / "checkpoint" / "file").write_bytes(b"secret")

    def swap(self) -> None:
        self.directory.parent.rename(self.allowed.parent / "kept")
        self.directory.parent.symlink_to(self._outside)


def test_a_directory_that_becomes_a_link_once_it_was_checked_is_not_listed(tmp_path: Path) -> None:
    swapped = Swapped(tmp_path)
    uri = AllowList([str(swapped.allowed)]).resolve(str(swapped.directory), "/checkpoint")
    swapped.swap()
    assert isinstance(uri, LocalUri)
    assert LocalSource.of_directory(uri).files() == {}
    with pytest.raises(UriRefused):
        open_source(uri, Settings())


def test_a_directory_that_becomes_a_link_while_its_files_are_looked_at_lends_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped, follow = Swapped(tmp_path), LocalUri.follow
    uri = AllowList([str(swapped.allowed)]).resolve(str(swapped.directory), "/checkpoint")
    assert isinstance(uri, LocalUri)

    def followed(self: LocalUri, name: str) -> Path:
        target = follow(self, name)
        swapped.swap()
        return target

    monkeypatch.setattr(LocalUri, "follow", followed)
    assert LocalSource.of_directory(uri).files() == {}


def test_a_file_is_not_read_through_a_link_that_came_later_though_it_is_the_same(tmp_path: Path) -> None:
    swapped = Swapped(tmp_path)
    source = source_of(swapped.directory, swapped.allowed)
    assert source.read("file", 0, 3) == b"own"
    swapped.swap()
    (swapped.directory / "file").unlink()
    (tmp_path / "kept" / "checkpoint" / "file").rename(swapped.directory / "file")
    with pytest.raises(CheckpointChanged):
        source.read("file", 0, 3)


def test_one_file_may_be_all_that_is_allowed(tmp_path: Path) -> None:
    swapped = Swapped(tmp_path)
    uri = AllowList([f"{swapped.directory}/file"]).resolve(f"{swapped.directory}/file", "/checkpoint")
    assert isinstance(uri, LocalUri)
    assert LocalSource.of_file(uri).read("file", 0, 3) == b"own"


@pytest.mark.parametrize("how", ["link moved", "blob replaced", "blob now a link", "time set back"])
def test_what_is_put_in_a_files_place_is_noticed(cache: Path, how: str) -> None:
    hub = cache.parents[1]
    blob = hub / "blobs" / "abc"
    source = source_of(cache, hub)
    (hub / "other").write_bytes(b"WEIGHTS")
    status = blob.stat()
    os.utime(hub / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
    if how == "link moved":  # the version first seen is still there, and is what is read
        (cache / "model.safetensors").unlink()
        (cache / "model.safetensors").symlink_to("../../other")
        assert source.read("model.safetensors", 0, 7) == b"weights"
        return
    if how == "blob replaced":
        (hub / "other").replace(blob)
    elif how == "blob now a link":
        blob.rename(hub / "kept")
        blob.symlink_to(hub / "kept")
    else:
        os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns - 1))
    with pytest.raises(CheckpointChanged, match=r"model\.safetensors"):
        source.read("model.safetensors", 0, 7)


def test_files_seen_in_the_same_state_have_one_memo_key(cache: Path) -> None:
    hub = cache.parents[1]
    os.utime(hub / "blobs" / "abc", (1, 1))
    first = source_of(cache, hub).memo_key()
    assert first is not None
    assert source_of(cache, hub).memo_key() == first
    os.utime(hub / "blobs" / "abc", (1, 2))
    assert source_of(cache, hub).memo_key() not in {first, None}
    os.utime(hub / "blobs" / "abc", (1, 2**33))  # from the future: no clock can be trusted here
    assert source_of(cache, hub).memo_key() is None


@given(st.binary(max_size=300), st.data())
def test_reads_what_the_file_holds(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("ranges")
    (directory / "file").write_bytes(content)
    source = source_of(directory)
    start = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, len(content) - start))
    assert source.read("file", start, length) == content[start : start + length]
