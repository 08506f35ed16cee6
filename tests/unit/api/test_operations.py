from datetime import UTC, datetime, timedelta

from httpx2 import Response
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from starlette.testclient import TestClient

from peelbound.api.app import create_app
from peelbound.api.context import Context
from peelbound.api.readiness import Readiness
from peelbound.service.database.tables import AuditRow
from peelbound.service.settings import Settings
from tests.acting_controller import ActingController
from tests.unit.api.harness import ALL, BODY, Api


def samples(api: Api) -> dict[tuple[str, ...], float]:
    text = api.client.get("/metrics").text
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_requests_by_route_and_audits_by_state(api: Api) -> None:
    audit_id = api.submit()
    api.client.get(f"/v1/audits/{audit_id}")
    api.client.get("/v1/audits/unknown")
    api.client.get("/somewhere/else")
    found = samples(api)
    requests = "peelbound_http_requests_total"
    assert found[requests, "GET", "/v1/audits/{audit_id}", "200"] == 1
    assert found[requests, "GET", "/v1/audits/{audit_id}", "404"] == 1
    assert found[requests, "GET", "unmatched", "404"] == 1
    assert found["peelbound_audits", "queued"] == 1
    assert found["peelbound_audits", "running"] == 0
    assert not any(audit_id in part for key in found for part in key)


def test_refused_requests_are_counted_too(api: Api) -> None:
    api.client.get("/v1/audits", headers={"Host": "evil.example"})
    api.client.post("/v1/audits", json={**BODY, "run": "x" * 5000})
    found = samples(api)
    assert found["peelbound_http_requests_total", "GET", "unmatched", "421"] == 1
    assert found["peelbound_http_requests_total", "POST", "unmatched", "413"] == 1


def ready(api: Api) -> Response:
    """What `/readyz` says when nobody has asked before."""
    api.client.app.state.readiness = Readiness(api.context)
    return api.client.get("/readyz")


def test_methods_that_strangers_make_up_are_one_series(api: Api) -> None:
    for number in range(3):
        assert api.client.request(f"M{number}", "/healthz").status_code == 405
    found = samples(api)
    assert found["peelbound_http_requests_total", "_OTHER", "/healthz", "405"] == 3
    assert not [labels for labels in found if "M0" in labels]


def test_probes_may_ask_for_the_head_alone(api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        head, whole = api.client.head(path), api.client.get(path)
        assert (head.status_code, head.content) == (whole.status_code, b"") == (200, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]


def test_ready_says_since_when_work_waits_and_a_controller_was_seen(api: Api) -> None:
    assert ready(api).json() == {
        "status": "ready",
        "controllers": 0,
        "oldest_claimable_seconds": None,
        "controller_seen_seconds": None,
    }
    api.submit()
    api.controller.leases.beat("test")
    body = ready(api).json()
    assert body["oldest_claimable_seconds"] >= 0
    assert body["controller_seen_seconds"] >= 0
    assert body["controllers"] == 1


def test_a_replica_stays_in_service_while_work_waits_in_vain(api: Api) -> None:
    api.submit()
    with api.context.engine.begin() as connection:
        connection.execute(update(AuditRow).values(claimable_at=datetime.now(UTC) - timedelta(hours=1)))
    response = ready(api)
    assert response.status_code == 200
    assert response.json()["controllers"] == 0
    assert response.json()["oldest_claimable_seconds"] > 3000
    assert api.client.get("/v1/audits").status_code == 200


def test_the_queues_age_is_of_what_a_controller_could_take(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"tenant_running_audits": 1}))
    with TestClient(app, base_url="http://127.0.0.1:8734") as client:
        context: Context = app.state.context
        client.headers["Authorization"] = f"Bearer {context.tokens.create('default', 'test', ALL)}"
        api = Api(client, context, ActingController(context.engine, context.store))
        api.submit()
        api.submit()
        assert ready(api).json()["oldest_claimable_seconds"] is not None
        api.controller.claim()
        assert ready(api).json()["oldest_claimable_seconds"] is None


def test_not_ready_when_the_store_takes_no_writes(api: Api) -> None:
    objects = api.context.settings.state_dir / "objects"
    if objects.exists():
        objects.rename(objects.with_name("moved"))
    objects.write_text("a file where the directory was")
    assert ready(api).status_code in (503, 507)
    assert api.client.get("/healthz").status_code == 200


def test_an_answer_lasts_two_seconds_whatever_it_was(api: Api) -> None:
    now = 100.0
    api.client.app.state.readiness = Readiness(api.context, clock=lambda: now)
    objects = api.context.settings.state_dir / "objects"
    aside = objects.with_name("aside")

    def status() -> int:
        return api.client.get("/readyz").status_code

    assert status() == 200
    objects.rename(aside)
    objects.write_text("a file where the directory was")
    now = 101.9
    assert status() == 200
    now = 102.0
    refused = status()
    assert refused in (503, 507)
    objects.unlink()
    aside.rename(objects)
    now = 103.9
    assert status() == refused
    now = 104.0
    assert status() == 200
