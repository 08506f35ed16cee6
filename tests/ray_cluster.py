"""A Ray cluster of several nodes on this machine, in processes of their own, with a token of its own.

`python -P -m tests.ray_cluster PORT CPUS…` runs one: the first node is the head. It writes a line of JSON about each
node and ends, with everything below it, when its standard input does. Another number on a line adds a node.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.s3_server import free_ports
from tests.waiting import DEADLINE_SECONDS

ROOT = Path(__file__).parents[1]
STOP_SECONDS = 30.0
STARTS = 3
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or Ray takes 127.0.0.1 for the machine's own address
    # A dead node is noticed within seconds; by default it takes half a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "10000",  # slow to answer is not dead; one that is killed refuses at once
    "RAY_health_check_failure_threshold": "3",
    "RAY_prestart_worker_first_driver": "0",  # no actor could use these processes
    # On a busy machine a worker takes minutes to import all that it needs.
    "RAY_worker_register_timeout_seconds": f"{DEADLINE_SECONDS:.0f}",
}


@dataclass
class Node:
    """A node of the cluster."""

    raylet: int
    """Its process id."""
    gcs: int | None
    """The head's process besides."""
    cpus: int

    def kill(self) -> None:
        """SIGKILL to the raylet; its workers end themselves when they notice."""
        psutil.Process(self.raylet).kill()


@dataclass
class RayCluster:
    """A cluster and how to reach it."""

    cpus: tuple[int, ...]
    token_file: Path
    log: Path
    port: int
    nodes: list[Node] = field(default_factory=list)
    process: "subprocess.Popen[str] | None" = None

    @property
    def address(self) -> str:
        """Of the head."""
        return f"127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What a driver needs in its environment."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}

    def processes(self) -> list[psutil.Process]:
        """All of it, on all nodes."""
        if self.process is None or self.process.poll() is not None:
            return []
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self, doing: str = "") -> list[psutil.Process]:
        """Peelbound's workers on all nodes, whichever controller's they are.

        Args:
            doing: only those in the middle of a method whose name begins like this; Ray says so in their titles.
        """
        return [p for p in self.processes() if f"{_title(p)}.".startswith(f"ray::Worker.{doing}")]

    def start(self) -> None:
        """Start all nodes; anew where Ray gives one up that has not come up within its 30 s, as on a busy machine."""
        for _ in range(STARTS):
            self._start()
            self.nodes = [node for _ in self.cpus if (node := self._told()) is not None]
            if len(self.nodes) == len(self.cpus):
                return
            self.stop()
        raise AssertionError(f"the cluster did not start:\n{self.log.read_text()[-2000:]}")

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", "tests.ray_cluster", str(self.port), *map(str, self.cpus)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | ENVIRONMENT | self.environment() | {"PYTHONPATH": str(ROOT)},  # of `tests`
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def add_node(self, cpus: int) -> None:
        """One more node."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{cpus}\n")
        self.process.stdin.flush()
        node = self._told()
        assert node is not None, "the node did not start"
        self.nodes.append(node)

    def _told(self) -> Node | None:
        """The next node that is up; None where there was none to come."""
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return Node(**json.loads(line)) if line else None

    def kill(self) -> None:
        """SIGKILL to everything."""
        below = self.processes()
        assert self.process is not None
        for process in (psutil.Process(self.process.pid), *below):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.communicate()

    def stop(self) -> None:
        """End it gently, then whatever is left."""
        below = self.processes()
        assert self.process is not None
        try:
            self.process.communicate(timeout=STOP_SECONDS)
        finally:
            self.process.kill()
            for left in below:
                with suppress(psutil.NoSuchProcess):
                    left.kill()


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.NoSuchProcess:
        return ""


@contextmanager
def ray_cluster(directory: Path, *cpus: int) -> Iterator[RayCluster]:
    """A cluster whose nodes have so many CPUs; nothing of it is left afterwards."""
    token_file = directory / "ray-token"
    token_file.write_text(secrets.token_hex(32))
    token_file.chmod(0o600)
    (port,) = free_ports(1)
    cluster = RayCluster(cpus, token_file, directory / "ray-cluster.log", port)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _run(port: int, cpus: list[int]) -> None:
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    told = sys.stdout
    sys.stdout = sys.stderr  # Ray greets on it
    cluster = Cluster()

    def add(count: int, **more: int) -> None:
        node = cluster.add_node(
            num_cpus=count,
            node_ip_address="127.0.0.1",
            include_dashboard=False,
            object_store_memory=100 << 20,
            include_log_monitor=False,
            no_monitor=True,
            **more,
        )
        processes = node.all_processes
        gcs = processes.get(ray_constants.PROCESS_TYPE_GCS_SERVER)
        (raylet,) = processes[ray_constants.PROCESS_TYPE_RAYLET]
        line = {"raylet": raylet.process.pid, "gcs": gcs[0].process.pid if gcs else None, "cpus": count}
        print(json.dumps(line), file=told, flush=True)

    for number, count in enumerate(cpus):
        add(count, **({} if number else {"gcs_server_port": port}))
    for line in sys.stdin:
        add(int(line))
    cluster.shutdown()


if __name__ == "__main__":
    _run(int(sys.argv[1]), [int(argument) for argument in sys.argv[2:]])
