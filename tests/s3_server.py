"""A real S3 server (SeaweedFS) for tests: `from tests.s3_server import s3_server` in a conftest gives the fixture."""

import json
import socket
import subprocess
import sysconfig
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import SecretStr

from peelbound.service.storage.s3_access import S3Access
from tests.waiting import DEADLINE_SECONDS


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, and a key pair that may do everything on it."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str

    def access(self, *, endpoint_url: str | None = None, secret: str | None = None, attempts: int = 5) -> S3Access:
        """Access with the right credentials, unless told otherwise."""
        return S3Access(
            endpoint_url or self.endpoint_url,
            None,
            SecretStr(self.access_key_id),
            SecretStr(secret or self.secret_access_key),
            attempts,
        )

    def new_bucket(self) -> str:
        """The name of an empty bucket made now."""
        name = f"test-{uuid.uuid4().hex}"
        self.access().client().create_bucket(Bucket=name)
        return name

    def environment(self) -> dict[str, str]:
        """What a Peelbound process needs in its environment to use the server."""
        return {
            "PEELBOUND_S3_ENDPOINT_URL": self.endpoint_url,
            "PEELBOUND_S3_ACCESS_KEY_ID": self.access_key_id,
            "PEELBOUND_S3_SECRET_ACCESS_KEY": self.secret_access_key,
        }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole session; tests keep apart by buckets."""
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@dataclass
class S3Process:
    """A server that can be killed and started again on its data."""

    server: S3Server
    command: list[str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, *options: str, wait: bool = True) -> None:
        """Start it, with further options, and wait until it takes objects, unless told otherwise."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen([*self.command, *options], stdout=output, stderr=output)
        if wait:
            _wait_until_ready(self.server, self.process, self.log)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@contextmanager
def run_s3_server(directory: Path) -> Iterator[S3Server]:
    """Start a server with its data in `directory`, wait until it stores objects, end it on leaving."""
    with s3_process(directory) as process:
        yield process.server


@contextmanager
def s3_process(directory: Path) -> Iterator[S3Process]:
    """The same, with a hand on the process."""
    server_names = ("master", "volume", "filer", "s3")
    ports = free_ports(2 * len(server_names))
    server = S3Server(f"http://127.0.0.1:{ports[3]}", "test-key", uuid.uuid4().hex)
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [_identity(server)]}))
    (directory / "data").mkdir()
    options = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": directory / "data",
        "filer": "true",
        "filer.localSocket": directory / "filer.sock",
        "s3": "true",
        "s3.config": config,
        "s3.localSocket": directory / "s3.sock",
        "s3.autoCreateBucket": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 0,  # as many as the disk holds: each bucket takes some
        "volume.preStopSeconds": 0,
        "volume.minFreeSpace": "1MiB",
    }
    for name, port, grpc in zip(server_names, ports[:4], ports[4:], strict=True):
        options |= {f"{name}.port": port, f"{name}.port.grpc": grpc}
    binary = Path(sysconfig.get_path("scripts")) / "weed"
    command = [str(binary), "server", *(f"-{name}={value}" for name, value in options.items())]
    s3 = S3Process(server, command, directory / "log")
    s3.start()
    try:
        yield s3
    finally:
        s3.kill()  # its data are thrown away; a gentle end takes half a minute


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _identity(server: S3Server) -> dict[str, object]:
    return {
        "name": "tests",
        "credentials": [{"accessKey": server.access_key_id, "secretKey": server.secret_access_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    client = server.access(attempts=1).client()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="object", Body=b"ready")
            return
        except (ClientError, BotoCoreError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start; its log ends:\n{log.read_text()[-4000:]}") from error
            time.sleep(0.1)
