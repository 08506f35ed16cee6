"""An S3 store meets wrong credentials, a wrong bucket, broken connections and killed writers."""

import pickle
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest
from pydantic import SecretStr

from peelbound.service.storage.base import ObjectInfo
from peelbound.service.storage.s3 import S3Store
from peelbound.service.storage.s3_access import S3Access
from peelbound.workers.errors import ObjectCorrupt, StorageDenied, StorageUnavailable
from tests.faulty_proxy import faulty_proxy
from tests.s3_server import S3Server, free_ports
from tests.waiting import DEADLINE_SECONDS

PUT_LARGE_FILE = """
import pickle, sys
from pathlib import Path

pickle.load(sys.stdin.buffer).put_file("key", Path(sys.argv[1]))
"""


@pytest.fixture
def store(s3_server: S3Server) -> S3Store:
    return S3Store(s3_server.new_bucket(), "prefix", s3_server.access())


def acts(store: S3Store, directory: Path) -> list[Callable[[], object]]:
    """Everything that talks to the server."""
    return [
        lambda: store.put("key", b"x"),
        lambda: store.put_if_absent("key", b"x"),
        lambda: store.get("key"),
        lambda: store.info("key"),
        lambda: store.download("key", directory / "out"),
        lambda: list(store.list("")),
        lambda: store.delete("key"),
        lambda: store.check(),
    ]


def test_wrong_secret_or_key_is_denied(store: S3Store, s3_server: S3Server, tmp_path: Path) -> None:
    store.put("key", b"x")
    wrong_secret = s3_server.access(secret="wrong")
    wrong_key = replace(s3_server.access(), access_key_id=SecretStr("nobody"))
    for access in (wrong_secret, wrong_key):
        for act in acts(replace(store, access=access), tmp_path):
            with pytest.raises(StorageDenied) as caught:
                act()
            assert "PEELBOUND_S3_SECRET_ACCESS_KEY" in caught.value.remedy
            assert "wrong" not in str(caught.value)
    assert store.get("key") == b"x"


def test_a_missing_bucket_is_named(store: S3Store, tmp_path: Path) -> None:
    nowhere = replace(store, bucket="no-such-bucket")
    for act in (nowhere.check, lambda: nowhere.put("k", b""), lambda: nowhere.get("k"), lambda: list(nowhere.list(""))):
        with pytest.raises(StorageDenied, match="no-such-bucket"):
            act()


def test_a_server_that_is_not_there_is_unavailable(store: S3Store, s3_server: S3Server, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    for act in acts(replace(store, access=s3_server.access(endpoint_url=endpoint, attempts=1)), tmp_path):
        with pytest.raises(StorageUnavailable, match=endpoint):
            act()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [300_000, 20 << 20])
def test_answers_cut_off_are_read_again(store: S3Store, s3_server: S3Server, size: int, tmp_path: Path) -> None:
    data = bytes(range(250)) * (size // 250)
    store.put("key", data)
    with faulty_proxy(s3_server.endpoint_url, cut_after=100_000, cuts=2) as proxy:
        flaky = replace(store, access=s3_server.access(endpoint_url=proxy.endpoint_url))
        assert flaky.get("key") == data
        assert proxy.faults == 2
        proxy.cuts += 2
        flaky.download("key", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data
        assert proxy.faults == 4


def test_a_server_that_always_breaks_off_is_unavailable(store: S3Store, s3_server: S3Server, tmp_path: Path) -> None:
    store.put("key", bytes(300_000))
    with faulty_proxy(s3_server.endpoint_url, cut_after=100_000, cuts=1000) as proxy:
        flaky = replace(store, access=s3_server.access(endpoint_url=proxy.endpoint_url, attempts=2))
        with pytest.raises(StorageUnavailable):
            flaky.get("key")
        assert proxy.faults == 2
        with pytest.raises(StorageUnavailable):
            flaky.download("key", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_conditional_put_whose_answer_was_lost_still_knows_that_it_won(store: S3Store, s3_server: S3Server) -> None:
    with faulty_proxy(s3_server.endpoint_url, cuts=1) as proxy:
        flaky = replace(store, access=s3_server.access(endpoint_url=proxy.endpoint_url))
        assert flaky.put_if_absent("key", b"mine")
        assert proxy.faults == 1
        assert not flaky.put_if_absent("key", b"mine")
    assert store.get("key") == b"mine"


def test_a_writer_killed_in_the_middle_leaves_nothing_visible(
    store: S3Store, s3_server: S3Server, tmp_path: Path
) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(64 << 20)
    with faulty_proxy(s3_server.endpoint_url, hold_after=20 << 20) as proxy:
        slow = replace(store, access=s3_server.access(endpoint_url=proxy.endpoint_url))
        command = [sys.executable, "-c", PUT_LARGE_FILE, tmp_path / "file"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as writer:
            assert writer.stdin is not None
            writer.stdin.write(pickle.dumps(slow))
            writer.stdin.close()
            assert proxy.held.wait(DEADLINE_SECONDS)
            writer.kill()
    assert list(store.list("")) == []
    assert store.info("key") is None
    assert store.put("key", b"after") == store.info("key")


def test_an_object_of_someone_else_has_no_checksum(store: S3Store) -> None:
    store.access.client().put_object(Bucket=store.bucket, Key="prefix/key", Body=b"x")
    for act in (lambda: store.get("key"), lambda: store.info("key")):
        with pytest.raises(ObjectCorrupt, match="no checksum"):
            act()
    assert list(store.list("")) == [ObjectInfo("key", 1, "")]


def test_a_link_downloads_the_object(store: S3Store) -> None:
    store.put("report", b"<h1>Report</h1>", media_type="text/html")
    link = store.link("report", seconds=60, filename='a "report" ü.html', media_type="text/plain")
    assert link is not None
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"<h1>Report</h1>"
        assert answer.headers["Content-Type"] == "text/plain"
        assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''a%20%22report%22%20%C3%BC.html"
    for forged in (link.replace("prefix/report", "prefix/other"), link.split("?")[0]):
        with pytest.raises(urllib.error.HTTPError, match="403") as caught:
            urllib.request.urlopen(forged)
        caught.value.close()


def test_no_prefix_is_a_prefix_too(s3_server: S3Server) -> None:
    store = S3Store(s3_server.new_bucket(), "", s3_server.access())
    store.put("a/b", b"x")
    assert [info.key for info in store.list("a")] == ["a/b"]


def test_secrets_do_not_show(s3_server: S3Server) -> None:
    access: S3Access = s3_server.access()
    assert s3_server.secret_access_key not in repr(access)


def test_an_upload_ends_though_the_connection_breaks_in_the_middle_of_a_100_continue(
    store: S3Store, s3_server: S3Server
) -> None:
    """botocore would read on for ever at the end of the stream, with the lease held."""

    class Handler(BaseRequestHandler):
        request: socket.socket

        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"HTTP/1.1 100 Continue\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as listener, ThreadPoolExecutor() as uploads:
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        endpoint_url = f"http://127.0.0.1:{listener.server_address[1]}"
        broken = replace(store, access=s3_server.access(endpoint_url=endpoint_url, attempts=2))
        with pytest.raises(StorageUnavailable):
            uploads.submit(broken.put, "key", b"x" * 100_000).result(timeout=DEADLINE_SECONDS)
        listener.shutdown()
