"""A Ray cluster of several nodes, with a token, shared by controllers: the same bytes, fair shares, lost nodes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from sqlalchemy import URL

from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.request import AuditOptions
from peelbound.service.settings import Settings
from tests.integration.controller.conftest import WHAT_IF, Inputs
from tests.integration.controller.harness import ControllerProcess, Service, a_controller, a_service, gone, save_model
from tests.postgres_server import postgres_database
from tests.ray_cluster import RayCluster, ray_cluster
from tests.s3_server import free_ports
from tests.waiting import DEADLINE_SECONDS, until


@dataclass
class Clustered:
    """A Ray cluster, a PostgreSQL database, and the controllers that share them."""

    cluster: RayCluster
    service: Service
    directory: Path
    controllers: list[ControllerProcess] = field(default_factory=list)

    @contextmanager
    def one_more(self) -> Iterator[ControllerProcess]:
        """Meanwhile there is a further controller."""
        settings = self.service.settings.model_copy(update={"controller_metrics_port": free_ports(1)[0]})
        log = self.directory / f"controller-{len(self.controllers)}.log"
        with a_controller(settings, log, variables=self.cluster.environment()) as controller:
            self.controllers.append(controller)
            yield controller

    def holder(self, audit: str) -> ControllerProcess:
        """The controller that has begun an audit."""
        return until(lambda: next((c for c in self.controllers if f"{audit} attempt 1: begun" in c.said()), None))

    @contextmanager
    def stopped_in_a_solve(self, only: psutil.Process | None = None) -> Iterator[None]:
        """Meanwhile a worker, this one or else any, stands still in the middle of a solve: its audit cannot end."""

        def stop() -> psutil.Process | None:
            for worker in self.cluster.workers("solve_"):
                if only in (None, worker):
                    worker.suspend()
                    if worker in self.cluster.workers("solve_"):
                        return worker
                    worker.resume()  # it had just finished
            return None

        stopped = until(stop)
        assert stopped is not None
        try:
            yield
        finally:
            stopped.resume()


@pytest.fixture(scope="module")
def clustered(inputs: Inputs, postgres_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clustered]:
    """Three nodes of one CPU each, and one controller: it keeps its workers from one test to the next."""
    directory = tmp_path_factory.mktemp("cluster")
    with ray_cluster(directory, 1, 1, 1) as cluster, postgres_database(postgres_url, "clustered") as database_url:
        settings = Settings(
            state_dir=directory / "state",
            database_url=database_url,
            ray_address=cluster.address,
            lease_seconds=300,  # a worker that a test has stopped must not take its controller for dead
            workers=3,
            worker_idle_seconds=3,
            allow=[str(inputs.directory)],
            retry_seconds=0.1,
        )
        with a_service(settings) as service:
            clustered = Clustered(cluster, service, directory)
            with clustered.one_more():
                yield clustered


def joined(holder: ControllerProcess, count: int) -> None:
    """Wait until so many workers have joined the pool of an audit in hand."""
    until(lambda: holder.metrics()["peelbound_workers",] == count)


def test_three_nodes_make_the_reports_of_one_machine(
    clustered: Clustered, inputs: Inputs, reference: bytes, rounded: bytes
) -> None:
    service = clustered.service
    audit = service.submit(inputs.request())
    with clustered.stopped_in_a_solve():
        joined(clustered.holder(audit), 3)
    assert service.succeeded(audit) == reference
    assert service.timings(audit)["workers"] == 3
    assert service.succeeded(service.submit(inputs.request(**WHAT_IF))) == rounded


def test_a_node_that_dies_costs_what_it_had_in_hand_and_a_new_one_is_used(
    clustered: Clustered, inputs: Inputs, reference: bytes
) -> None:
    service, tenant = clustered.service, "node-killed"
    audit = service.submit(inputs.request(), tenant)
    until(lambda: service.half_solved(tenant))
    before = service.results(tenant=tenant)
    clustered.cluster.nodes[-1].kill()
    assert service.succeeded(audit, tenant) == reference
    after = service.results(tenant=tenant)
    assert {name: after[name] for name in before} == before
    assert service.states(audit, tenant) == ["queued", "running", "succeeded"]

    clustered.cluster.add_node(1)
    audit = service.submit(inputs.request(), "node-added")
    with clustered.stopped_in_a_solve():
        joined(clustered.holder(audit), 3)
    assert service.succeeded(audit, "node-added") == reference
    assert service.timings(audit, "node-added")["workers"] == 3


@pytest.fixture
def second(clustered: Clustered) -> Iterator[ControllerProcess]:
    """Another controller: each carries out one audit at a time."""
    with clustered.one_more() as controller:
        yield controller


MANY_BLOCKS = 16
MANY_SOLVES = AuditOptions(
    rhos=[0.1, 0.2, 0.3], block_steps=60, maps=[], matrix_band=0, positive_control=False, grain=4
)
"""Each takes about a second, and nothing else is done for long."""


def test_a_small_audit_gets_a_worker_of_a_long_one_between_its_solves_and_in_the_end_all_are_given_back(
    clustered: Clustered, second: ControllerProcess, inputs: Inputs, reference: bytes
) -> None:
    service = clustered.service
    until(lambda: "ready" in second.said())
    deep = save_model(inputs.directory / "many-blocks", num_hidden_layers=MANY_BLOCKS)
    long = service.submit(inputs.request(deep, options=MANY_SOLVES), "long")
    holder = clustered.holder(long)
    replaced = holder.metrics()["peelbound_workers_replaced_total",]
    until(lambda: len(clustered.cluster.workers("solve_corrected")) == 3)
    before = clustered.cluster.workers()
    small = service.submit(inputs.request(), "small")
    until(lambda: any(gone(worker) for worker in before))
    one, other = (worker for worker in before if not gone(worker))
    with clustered.stopped_in_a_solve(one), clustered.stopped_in_a_solve(other):
        assert service.succeeded(small, "small") == reference
        progress = service.record(long, "long").progress
        assert progress is not None
        assert progress.phase == "block_references"
        joined(holder, 3)  # the long one has all three again
    service.audits.cancel("long", long)
    assert service.wait(long, "long").state is AuditState.CANCELLED
    assert service.record(long, "long").attempt == 1
    # Whoever was given back had finished what it had in hand.
    assert holder.metrics()["peelbound_workers_replaced_total",] == replaced
    assert len(clustered.cluster.workers()) >= 3
    until(lambda: not clustered.cluster.workers())


def test_a_driver_without_the_token_is_refused(clustered: Clustered, inputs: Inputs, tmp_path: Path) -> None:
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    settings = clustered.service.settings
    with a_controller(settings, tmp_path / "log", variables=wrong) as controller:
        assert controller.process.wait(DEADLINE_SECONDS) == 3
        assert "takes no driver without its token" in controller.said()
        assert "RAY_AUTH_TOKEN_PATH" in controller.said()
