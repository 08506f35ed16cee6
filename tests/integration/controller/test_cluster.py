"""A Ray cluster of several nodes, with a token, shared by controllers: the same bytes, fair shares, lost nodes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, text

from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.request import Preset
from peelbound.service.settings import Settings
from tests.integration.controller.conftest import Inputs
from tests.integration.controller.harness import ControllerProcess, Service, a_controller, a_service, until
from tests.integration.controller.test_interruptions import LONG
from tests.ray_cluster import RayCluster, ray_cluster


@dataclass
class Clustered:
    """Two controllers on one cluster and one PostgreSQL database."""

    cluster: RayCluster
    service: Service
    controllers: tuple[ControllerProcess, ControllerProcess]


@pytest.fixture(scope="module")
def clustered(inputs: Inputs, postgres_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clustered]:
    """Three nodes of one CPU each."""
    directory = tmp_path_factory.mktemp("cluster")
    maintenance = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text("CREATE DATABASE clustered"))
    maintenance.dispose()
    with ray_cluster(directory, 1, 1, 1) as cluster:
        settings = Settings(
            state_dir=directory / "state",
            database_url=postgres_url.set(database="clustered").render_as_string(hide_password=False),
            ray_address=cluster.address,
            workers=3,
            worker_idle_seconds=2,
            allow=[str(inputs.directory)],
            retry_seconds=0.1,
        )
        variables = cluster.environment()
        with (
            a_service(settings) as service,
            a_controller(settings, directory / "one.log", variables=variables) as one,
            a_controller(settings, directory / "other.log", variables=variables) as other,
        ):
            until(lambda: "ready" in one.said() and "ready" in other.said())
            yield Clustered(cluster, service, (one, other))


def test_three_nodes_make_the_report_of_one_machine(clustered: Clustered, inputs: Inputs, reference: bytes) -> None:
    service = clustered.service
    audit = service.submit(inputs.request())
    until(lambda: len(clustered.cluster.workers()) == 3)  # whoever starts late helps as long as there is work
    assert service.succeeded(audit) == reference


def test_workers_that_nobody_needs_are_given_back(clustered: Clustered, inputs: Inputs) -> None:
    service = clustered.service
    assert service.run(inputs.request(preset=Preset.QUICK), "idle").state is AuditState.SUCCEEDED
    until(lambda: not clustered.cluster.workers())


def test_a_small_audit_gets_its_share_of_a_cluster_that_a_long_one_has_taken(
    clustered: Clustered, inputs: Inputs, reference: bytes
) -> None:
    service = clustered.service
    # A worker is given back when it has finished what it has in hand: the long one has all three and uses one.
    long = service.submit(inputs.request(options=LONG["head"].options), "long")
    until(lambda: len(clustered.cluster.workers()) == 3)
    until(lambda: service.results(LONG["head"].after, "long"))
    assert service.succeeded(service.submit(inputs.request(), "small"), "small") == reference
    assert service.record(long, "long").state is AuditState.RUNNING
    until(lambda: len(clustered.cluster.workers()) == 3)  # which the long one may have again
    service.audits.cancel("long", long)
    assert service.wait(long, "long").state is AuditState.CANCELLED
    assert service.record(long, "long").attempt == 1


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
    until(lambda: len(clustered.cluster.workers()) == 3)
    assert service.succeeded(audit, "node-added") == reference


def test_a_driver_without_the_token_is_refused(clustered: Clustered, inputs: Inputs, tmp_path: Path) -> None:
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    settings = clustered.service.settings
    with a_controller(settings, tmp_path / "log", variables=wrong) as controller:
        assert controller.process.wait(120) == 3
        assert "takes no driver without its token" in controller.said()
        assert "RAY_AUTH_TOKEN_PATH" in controller.said()
