"""What every object store promises, on a directory and on a real S3 server."""

import hashlib
import os
import pickle
import random
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from peelbound.service.storage import s3
from peelbound.service.storage.base import ObjectInfo, ObjectStore
from peelbound.service.storage.directory import DirectoryStore
from peelbound.service.storage.s3 import S3Store
from peelbound.workers.errors import ObjectCorrupt, ObjectMissing
from tests.waiting import DEADLINE_SECONDS

LARGE = 40 << 20  # above S3's multipart threshold

STREAM_A_FILE = r"""
import pickle, re, sys
from pathlib import Path

def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

store, source, target = pickle.load(sys.stdin.buffer), Path(sys.argv[1]), Path(sys.argv[2])
store.put("small", b"x")
store.download("small", target)
before = peak()
store.put_file("large", source)
store.download("large", target)
print(peak() - before)
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def damage(store: ObjectStore, key: str, *, keep: int, flip: bool) -> None:
    """Keep `keep` of the object's stored bytes, the last one flipped, without the store's doing."""
    if isinstance(store, DirectoryStore):
        file = store.root / f"{key}.object"
        raw = bytearray(file.read_bytes()[:keep])
        raw[-1] ^= flip
        file.write_bytes(raw)
        return
    assert isinstance(store, S3Store)
    client, whole = store.access.client(), f"{store.prefix}/{key}"
    answer = client.get_object(Bucket=store.bucket, Key=whole)
    raw = bytearray(answer["Body"].read()[:keep])
    raw[-1] ^= flip
    client.put_object(Bucket=store.bucket, Key=whole, Body=bytes(raw), Metadata=answer["Metadata"])


@pytest.mark.parametrize("data", [b"", b"\x00", b"some bytes"])
def test_gives_back_what_was_put(store: ObjectStore, data: bytes, tmp_path: Path) -> None:
    info = store.put("a/b.json", data, media_type="application/json")
    assert info == ObjectInfo("a/b.json", len(data), sha256(data)) == store.info("a/b.json")
    assert store.get("a/b.json") == data
    store.download("a/b.json", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


def test_large_files_pass_through(store: ObjectStore, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(LARGE)
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(data)
    assert store.put_file("large", source) == ObjectInfo("large", LARGE, sha256(data)) == store.info("large")
    store.download("large", target)
    assert target.read_bytes() == data == store.get("large")


def test_large_files_are_streamed(store: ObjectStore, tmp_path: Path) -> None:
    size = 384 << 20  # parts and buffers of transfers to S3 take 107 to 134 MB, however large the file
    source, target = tmp_path / "in", tmp_path / "out"
    with source.open("wb") as file:
        file.truncate(size)
    command = [sys.executable, "-c", STREAM_A_FILE, source, target]
    answer = subprocess.run(
        command, input=pickle.dumps(store), stdout=subprocess.PIPE, check=True, timeout=DEADLINE_SECONDS
    )
    assert target.stat().st_size == size
    assert int(answer.stdout) < size / 2
    store.delete("large")


def test_put_replaces_and_put_if_absent_does_not(store: ObjectStore) -> None:
    assert store.put_if_absent("key", b"first")
    assert not store.put_if_absent("key", b"second")
    assert store.get("key") == b"first"
    store.put("key", b"third")
    assert store.get("key") == b"third"
    store.delete("key")
    assert store.put_if_absent("key", b"fourth")
    assert store.get("key") == b"fourth"


def test_one_of_many_writers_wins(store: ObjectStore) -> None:
    writers = 8
    barrier = Barrier(writers)

    def write(index: int) -> bool:
        barrier.wait()
        return store.put_if_absent("contested/key", str(index).encode())

    for _ in range(3):
        with ThreadPoolExecutor(writers) as pool:
            won = list(pool.map(write, range(writers)))
        assert won.count(True) == 1
        assert store.get("contested/key") == str(won.index(True)).encode()
        store.delete("contested/key")


def test_readers_see_one_whole_object_while_it_is_replaced(store: ObjectStore) -> None:
    contents = [bytes([i]) * 100_000 for i in range(4)]
    store.put("key", contents[0])
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(store.put, "key", content) for content in contents * 5]
        reads = [pool.submit(store.get, "key") for _ in range(40)]
        assert {read.result() for read in reads} <= set(contents)
        assert all(write.result() for write in writes)


def test_what_is_missing(store: ObjectStore, tmp_path: Path) -> None:
    store.put("here/and/deep", b"x")
    for key in ("nowhere", "here", "here/and", "here/and/deep/deeper"):
        assert store.info(key) is None
        with pytest.raises(ObjectMissing, match=key):
            store.get(key)
        with pytest.raises(ObjectMissing, match=key):
            store.download(key, tmp_path / "out")
        store.delete(key)
    assert {path.name for path in tmp_path.iterdir()} <= {"a store"}
    assert store.get("here/and/deep") == b"x"


def test_lists_by_prefix(store: ObjectStore) -> None:
    keys = ["a", "a/b", "a/b/c", "a-b", "a.b/c", "ab/c", "b/1", "b/10", "b/2", "b/_"]
    for key in keys:
        store.put(key, key.encode())
    store.check()
    for prefix in ("", "a", "a/", "a/b", "a/b/", "b/1", "zzz", "a/b/c"):
        listed = sorted(store.list(prefix), key=lambda info: info.key)
        assert [info.key for info in listed] == sorted(key for key in keys if key.startswith(prefix)), prefix
        assert all(info.sha256 == sha256(info.key.encode()) and info.bytes == len(info.key) for info in listed)
        assert store.bytes_under(prefix) == sum(info.bytes for info in listed)


def test_an_object_may_lie_below_another(store: ObjectStore) -> None:
    store.put("a/b", b"below")
    store.put("a", b"above")
    assert (store.get("a"), store.get("a/b")) == (b"above", b"below")
    store.delete("a")
    assert store.get("a/b") == b"below"


@pytest.mark.parametrize("keep", [5, 3])
def test_damage_is_noticed(store: ObjectStore, keep: int, tmp_path: Path) -> None:
    store.put("key", b"hello")
    damage(store, "key", keep=keep, flip=keep == 5)
    with pytest.raises(ObjectCorrupt, match="key"):
        store.get("key")
    with pytest.raises(ObjectCorrupt, match="key"):
        store.download("key", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} <= {"a store"}
    assert [info.key for info in store.list("")] == ["key"]
    store.put("key", b"hello")
    assert store.get("key") == b"hello"


def test_a_flipped_bit_in_the_middle_is_noticed(store: ObjectStore) -> None:
    store.put("key", b"hello" * 1000)
    if isinstance(store, DirectoryStore):
        file = store.root / "key.object"
        file.write_bytes(file.read_bytes().replace(b"hellohello", b"hellohallo", 1))
    else:
        damage(store, "key", keep=5000, flip=True)
    with pytest.raises(ObjectCorrupt, match="SHA-256"):
        store.get("key")


@pytest.mark.parametrize(
    "key",
    [
        *(
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "..",
            "../a",
            "a/../b",
            "a/./b",
            ".a",
            "a/.b",
            "a\\b",
            "a\nb",
            "a b",
            "ä",
            "a%2fb",
        ),
        *("x.object", "x.object/y", "a" * 201, "/".join(["a" * 100] * 11), "a\x00b"),
    ],
)
def test_bad_keys_are_refused(store: ObjectStore, key: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for act in (
        lambda: store.put(key, b"x"),
        lambda: store.put_file(key, tmp_path / "file"),
        lambda: store.put_if_absent(key, b"x"),
        lambda: store.get(key),
        lambda: store.info(key),
        lambda: store.download(key, tmp_path / "out"),
        lambda: store.delete(key),
    ):
        with pytest.raises(ValueError, match="not a key"):
            act()


@pytest.mark.parametrize("prefix", ["/", "..", "a/..", "a/../b", "a//", ".staging", "a b"])
def test_bad_prefixes_are_refused(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        list(store.list(prefix))


def test_travels_to_other_processes(store: ObjectStore) -> None:
    store.put("key", b"data")
    copy: ObjectStore = pickle.loads(pickle.dumps(store))
    assert copy.get("key") == b"data"
    assert copy == store


def test_check_passes_and_leaves_nothing(store: ObjectStore) -> None:
    store.check()
    store.check()
    assert list(store.list("")) == []


def test_is_used_from_many_threads(store: ObjectStore) -> None:
    def round_trip(index: int) -> bool:
        key, data = f"threads/{index % 7}/{index}", uuid.uuid4().bytes * 1000
        store.put(key, data)
        return store.get(key) == data

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(round_trip, range(100)))
    assert len(list(store.list("threads/"))) == 100


def test_what_broken_off_writers_left_is_removed_when_it_is_old(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("kept", b"x")
    if isinstance(store, S3Store):
        client = store.access.client()
        for key in (f"{store.prefix}/broken-off", "elsewhere/broken-off"):
            client.create_multipart_upload(Bucket=store.bucket, Key=key)
        assert store.clean() == 0
        monkeypatch.setattr(s3, "_STALE", timedelta(seconds=-60))
        assert store.clean() == 1
        left = client.list_multipart_uploads(Bucket=store.bucket)["Uploads"]
        assert [upload["Key"] for upload in left] == ["elsewhere/broken-off"]
    else:
        assert isinstance(store, DirectoryStore)
        young, old = store.root / ".staging" / "young", store.root / ".staging" / "old"
        young.write_bytes(b"x")
        old.write_bytes(b"x")
        os.utime(old, (1_700_000_000, 1_700_000_000))
        assert store.clean() == 1
        assert [file.name for file in (store.root / ".staging").iterdir()] == ["young"]
    assert store.clean() == 0
    assert [info.key for info in store.list("")] == ["kept"]
