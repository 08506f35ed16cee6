"""A directory store meets a full disk, a crash, and what others left in it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from peelbound.service.storage import directory
from peelbound.service.storage.directory import DirectoryStore, disk_errors
from peelbound.workers.errors import StorageDenied, StorageFull
from tests.waiting import DEADLINE_SECONDS, until

WRITE_WITH_LITTLE_ROOM = """
import resource, sys
from pathlib import Path
from peelbound.service.storage.directory import DirectoryStore
from peelbound.workers.errors import StorageFull

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
store, target = DirectoryStore(Path(sys.argv[1])), Path(sys.argv[2])
for write in (
    lambda: store.put("kept", bytes(2_000_000)),
    lambda: store.put("new", bytes(2_000_000)),
    lambda: store.put("new", bytes(1_000_000)),  # the bytes fit, the trailer does not
    lambda: store.put_if_absent("new", bytes(2_000_000)),
    lambda: store.download("large", target),
):
    try:
        write()
    except StorageFull as error:
        assert "PEELBOUND_STORE_URL" in error.remedy
    else:
        sys.exit("it went through")
store.put("small", b"fits")
"""

PUT_FROM_PIPE = """
import sys
from pathlib import Path
from peelbound.service.storage.directory import DirectoryStore

DirectoryStore(Path(sys.argv[1])).put_file("key", Path(sys.argv[2]))
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.put("kept", b"as it was")
    store.put("large", bytes(2_000_000))
    command = [sys.executable, "-c", WRITE_WITH_LITTLE_ROOM, store.root, tmp_path / "target"]
    subprocess.run(command, check=True, timeout=DEADLINE_SECONDS)
    assert {info.key for info in store.list("")} == {"kept", "large", "small"}
    assert store.get("kept") == b"as it was"
    assert list((store.root / ".staging").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_no_space_left_is_named_so() -> None:
    with pytest.raises(StorageFull, match="No space left"), disk_errors(Path("/dev/full")):
        Path("/dev/full").write_bytes(b"x")


def test_a_writer_killed_in_the_middle_leaves_nothing_visible(tmp_path: Path) -> None:
    store, pipe = DirectoryStore(tmp_path / "store"), tmp_path / "pipe"
    store.put("key", b"before")
    staging = store.root / ".staging"
    os.mkfifo(pipe)
    with subprocess.Popen([sys.executable, "-c", PUT_FROM_PIPE, store.root, pipe]) as writer, pipe.open("wb") as feed:
        feed.write(bytes(3 << 20))
        feed.flush()
        until(lambda: any(file.stat().st_size >= 2 << 20 for file in staging.iterdir()))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    (left,) = staging.iterdir()
    assert [info.key for info in store.list("")] == ["key"]
    assert store.get("key") == b"before"
    assert store.put("key", b"after") == store.info("key")

    store.clean()
    assert left.exists()  # as far as anyone knows its writer still lives
    os.utime(left, (0, 0))
    store.clean()
    assert list(staging.iterdir()) == []


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageDenied, match=str(root)):
            DirectoryStore(root).check()


def test_other_users_of_the_machine_cannot_look_in(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.put("a/b", b"private")
    modes = {path.stat().st_mode & 0o077 for path in (store.root, *store.root.rglob("*"))}
    assert modes == {0}


def test_files_that_are_no_objects_are_not_listed(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a/key", b"x")
    (tmp_path / "a" / "README").write_text("not an object")
    assert [info.key for info in store.list("")] == ["a/key"]


def age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (0, 0))


def test_directories_that_have_been_empty_for_a_day_are_removed(tmp_path: Path) -> None:
    """Each audit has one of its own; they would be walked for ever."""
    store = DirectoryStore(tmp_path / "store")
    store.put("audits/kept/report", b"x")
    store.put("audits/gone/1/report", b"x")
    store.delete("audits/gone/1/report")
    gone, kept = store.root / "audits" / "gone", store.root / "audits" / "kept"
    store.clean()
    assert (gone / "1").exists()  # somebody may be about to write there
    age(store.root, kept, gone, gone / "1")
    store.clean()
    assert [path.exists() for path in (gone / "1", gone, kept)] == [False, True, True]
    age(gone)
    store.clean()
    assert [path.exists() for path in (gone, kept, store.root)] == [False, True, True]
    assert store.get("audits/kept/report") == b"x"


@pytest.mark.parametrize("write", [DirectoryStore.put, DirectoryStore.put_if_absent])
def test_a_directory_that_is_removed_while_an_object_is_put_there_is_made_again(
    write: Callable[[DirectoryStore, str, bytes], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.put("audits/a/old", b"x")
    store.delete("audits/a/old")
    make, cleaned = directory._make_directory, iter([True])

    def make_and_lose(path: Path) -> None:
        make(path)
        if path.name == "a" and next(cleaned, False):
            age(path)
            store.clean()
            assert not path.exists()

    monkeypatch.setattr(directory, "_make_directory", make_and_lose)
    write(store, "audits/a/new", b"new")
    assert store.get("audits/a/new") == b"new"
