"""The commands and the environment of `docker-compose.yml`, as plain processes on loopback beside real servers.

What only containers have (images, names of hosts, volumes) is replaced: ports by free ones, names by 127.0.0.1, volumes
by folders. Ray takes one node for each machine, so the head works here too, and neither workers nor controllers make
nodes of their own; clusters of several nodes are tests/integration/controller's.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import URL

from peelbound.client import Client
from peelbound.errors import ProblemError
from peelbound.service.schemas.record import AuditState
from tests.integration.controller.harness import request_for, save_documents, save_model
from tests.s3_server import S3Server, free_ports, s3_server
from tests.unit.deploy.test_compose import DOCKERFILE, SERVICES, resolved
from tests.waiting import DEADLINE_SECONDS, until

__all__ = ["s3_server"]

SCRIPTS = Path(sys.executable).parent
IMAGE = dict(re.findall(r"\b((?:PEELBOUND|RAY|HF)_\w+)=(\S+)", DOCKERFILE))


class Kept:
    """A process that is started again whenever it ends, as `restart: unless-stopped` says.

    So are a Ray head, which gives up where a busy machine takes more than 30 s to bring its raylet up, and controllers
    that did not find it.
    """

    def __init__(self, start: Callable[[], "subprocess.Popen[bytes]"]) -> None:
        self._start, self._stopped, self._process = start, threading.Event(), start()
        self.restarts = 0
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def _keep(self) -> None:
        while True:
            self._process.wait()
            if self._stopped.wait(0.5):
                return
            self.restarts += 1
            self._process = self._start()
            if self._stopped.is_set():  # meanwhile, and the signal went to the one before
                self._process.send_signal(signal.SIGTERM)

    def tell(self) -> None:
        """SIGTERM; it is not started again."""
        self._stopped.set()
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """The same where it was not told yet, and SIGKILL to it and what it started where it does not end."""
        if not self._stopped.is_set():
            self.tell()
        try:
            self._process.wait(timeout=DEADLINE_SECONDS)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._thread.join()


class Topology:
    """Runs what the compose file says, with hosts, ports and volumes of this machine."""

    def __init__(self, folder: Path, database: str, s3: S3Server) -> None:
        self.folder = folder
        self.ray_port, self.metrics_ports = free_ports(3)[0], free_ports(3)[1:]
        self.s3, self.database = s3, database

    def here(self, text: str) -> str:
        """The text with this machine's places for those of the containers."""
        text = resolved(text).replace("/run/", f"{self.folder}/")
        text = re.sub(r"http://(s3|127\.0\.0\.1):8333", self.s3.endpoint_url, text)
        text = text.replace("file:///data", f"file://{self.folder}")
        return re.sub(r"(ray-head|127\.0\.0\.1):6379", f"127.0.0.1:{self.ray_port}", text).replace(
            "--port=6379", f"--port={self.ray_port}"
        )

    def environment(self, service: str, **changes: str) -> dict[str, str]:
        """What the process of a service sees, its image's variables included."""
        own = {name: self.here(str(value)) for name, value in SERVICES[service]["environment"].items()}
        here = {
            "PEELBOUND_DATABASE_URL": self.database,
            "PEELBOUND_S3_ACCESS_KEY_ID": self.s3.access_key_id,
            "PEELBOUND_S3_SECRET_ACCESS_KEY": self.s3.secret_access_key,
            "PEELBOUND_HOST": "127.0.0.1",
            "PEELBOUND_CONTROLLER_METRICS_HOST": "127.0.0.1",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or Ray takes the machine's address for loopback
            "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        }
        return dict(os.environ) | IMAGE | own | here | changes

    def command(self, service: str) -> list[str]:
        """Its command; the controller's script without the line that makes a node."""
        words = [self.here(word) for word in SERVICES[service]["command"]]
        if words == ["peelbound-controller"]:
            script = (Path(__file__).parents[3] / "deploy" / "docker" / "controller.sh").read_text()
            (run,) = re.findall(r"^exec (.*)$", script, re.MULTILINE)
            return run.split()
        return words

    def run(self, service: str) -> None:
        """A service that ends by itself."""
        done = subprocess.run(
            self.command(service),
            env=self.environment(service),
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
        assert done.returncode == 0, done.stderr

    @contextmanager
    def running(self, service: str, *words: str, **changes: str) -> Iterator["Kept"]:
        """A service that goes on, ended on leaving with what it started."""
        assert SERVICES[service]["restart"] == "unless-stopped"

        def start() -> "subprocess.Popen[bytes]":
            with (self.folder / f"{service}.log").open("ab") as log:
                return subprocess.Popen(
                    [*self.command(service), *words],
                    env=self.environment(service, **changes),
                    cwd=self.folder,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

        kept = Kept(start)
        try:
            yield kept
        finally:
            kept.stop()

    def logs(self) -> str:
        """The last lines of each service."""
        return "\n".join(f"{log.name}: {log.read_text()[-3000:]}" for log in self.folder.glob("*.log"))

    def healthy(self, service: str, **ports: int) -> bool:
        """What the health check says, of the compose file or else of the image."""
        check = SERVICES[service].get("healthcheck")
        if check is None:
            (api,) = re.findall(r"HEALTHCHECK .*\\\n\s+CMD (\[.*\])", DOCKERFILE)
            words = httpx2.Response(200, text=api).json()
        else:
            words = check["test"][1:]
        words = [self.here(word) for word in words]
        for before, port in ports.items():
            words = [word.replace(before.strip("_"), str(port)) for word in words]
        done = subprocess.run(words, env=self.environment(service), capture_output=True, timeout=DEADLINE_SECONDS)
        return done.returncode == 0


@pytest.fixture
def topology(tmp_path: Path, postgres_url: URL, s3_server: S3Server) -> Topology:
    for name in ("peelbound", "peelbound-metrics", "peelbound-grafana"):
        (tmp_path / name).mkdir()
    return Topology(tmp_path, postgres_url.render_as_string(hide_password=False), s3_server)


def test_two_replicas_and_two_controllers_come_up_and_end_an_audit(topology: Topology) -> None:
    model = save_model(topology.folder / "model")
    documents = save_documents(topology.folder / "documents.jsonl")
    secrets = set()
    for _ in range(2):  # a second `docker compose up` finds all there
        for once in ("bucket", "migrate", "tokens"):
            topology.run(once)
        places = ("peelbound/token", "peelbound-metrics/token", "peelbound-grafana/password")
        token, metrics_token, password = [(topology.folder / place).read_text().strip() for place in places]
        secrets.add((token, metrics_token, password))
    assert len(secrets) == 1
    assert len(password) >= 32
    ports = free_ports(2)
    with ExitStack() as stack:
        head = stack.enter_context(topology.running("ray-head", "--node-ip-address=127.0.0.1", "--num-cpus=2"))
        until(lambda: topology.healthy("ray-head"))
        assert topology.s3.endpoint_url + "/healthz" in topology.here(SERVICES["s3"]["healthcheck"]["test"][1])
        assert httpx2.get(f"{topology.s3.endpoint_url}/healthz", trust_env=False).status_code == 200
        replicas = [stack.enter_context(topology.running("api", PEELBOUND_PORT=str(port))) for port in ports]
        controllers = [
            stack.enter_context(topology.running("controller", PEELBOUND_CONTROLLER_METRICS_PORT=str(port)))
            for port in topology.metrics_ports
        ]
        for port in ports:
            until(lambda port=port: topology.healthy("api", _8734=port))
            assert httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
        with Client(f"http://127.0.0.1:{ports[0]}", token) as client:
            audit = client.submit(request_for(model, documents))
        with Client(f"http://127.0.0.1:{ports[1]}", token) as other:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not (record := other.get(audit.id, wait=10)).state.ended and time.monotonic() < deadline:
                pass
        assert record.state is AuditState.SUCCEEDED, f"{record}\n{topology.logs()}"
        assert head.restarts or not any(kept.restarts for kept in (*replicas, *controllers)), topology.logs()
        for port in topology.metrics_ports:
            assert topology.healthy("controller", _9464=port)
        scraped = httpx2.get(
            f"http://127.0.0.1:{ports[0]}/metrics",
            headers={"Authorization": f"Bearer {metrics_token}", "Host": "172.18.0.7:8734"},  # found by DNS
            trust_env=False,
        )
        assert "peelbound_controllers 2.0" in scraped.text
        with Client(f"http://127.0.0.1:{ports[0]}", metrics_token) as scraper, pytest.raises(ProblemError):
            scraper.get(audit.id)
        for kept in (*replicas, *controllers):  # each takes some seconds to end, and all of them the same ones
            kept.tell()
