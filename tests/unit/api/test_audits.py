from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from peelbound.api.app import create_app
from peelbound.service.settings import Settings
from peelbound.workers.errors import UserError
from tests.unit.api.harness import ALL, BODY, Api, problem


def test_submit_answers_202_with_the_audit_and_where_it_is(api: Api) -> None:
    response = api.client.post("/v1/audits", json=BODY)
    assert response.status_code == 202
    record = response.json()
    assert record["state"] == "queued"
    assert response.headers["location"] == f"/v1/audits/{record['id']}" == record["links"]["self"]
    assert api.client.get(record["links"]["self"]).json() == record


def test_an_idempotency_key_makes_one_audit(api: Api) -> None:
    key = {"Idempotency-Key": "nightly-17"}
    first = api.client.post("/v1/audits", json=BODY, headers=key)
    again = api.client.post("/v1/audits", json=BODY, headers=key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    other = api.client.post("/v1/audits", json={**BODY, "seed": 1}, headers=key)
    problem(other, 422, "idempotency-conflict")
    assert len(api.client.get("/v1/audits").json()["items"]) == 1


@pytest.mark.parametrize(
    ("change", "pointer", "slug"),
    [
        ({"checkpoint": "/etc/ckpt"}, "/checkpoint", "uri-refused"),
        ({"checkpoint": "/data/../etc"}, "/checkpoint", "uri-refused"),
        ({"checkpoint": "https://example.org/x"}, "/checkpoint", "uri-refused"),
        ({"baseline": "/etc/ckpt"}, "/baseline", "uri-refused"),
        ({"calibration": {"uri": "s3://other/text.txt"}}, "/calibration/uri", "uri-refused"),
        ({"baseline": "s3://other/run-7"}, "/baseline", "uri-refused"),
        ({"what_if": "full"}, "/what_if", "request-invalid"),
        ({"what_if": "int9"}, "/what_if", "request-invalid"),
        ({"options": {"maps": [[4], [2, 2, 4]]}}, "/options/maps/1/1", "request-anchor-repeated"),
        ({"options": {"maps": [[0, 4]]}}, "/options/maps/0/0", "request-anchor-out-of-range"),
        ({"calibration": {}}, "/calibration", "request-invalid"),
        ({"calibration": {"uri": "/data/t", "fit_sequences": 10**9}}, "/calibration/fit_sequences", "request-invalid"),
        ({"step": 3}, "", "request-invalid"),
        ({"run": "r/report.html"}, "/run", "request-run-reserved"),
        ({"chekpoint": "x"}, "/chekpoint", "request-invalid"),
        ({"labels": {"a/b": "\n"}}, "/labels/a~1b", "request-invalid"),
    ],
)
def test_a_bad_request_names_the_field_and_the_remedy_and_queues_nothing(
    api: Api, change: dict[str, object], pointer: str, slug: str
) -> None:
    document = problem(api.client.post("/v1/audits", json={**BODY, **change}), 422, slug)
    assert document["pointer"] == pointer
    assert document["remedy"]
    assert api.client.get("/v1/audits").json()["items"] == []


def test_every_error_of_a_request_is_listed(api: Api) -> None:
    body = {"calibration": {"uri": "/data/t", "provenance": "guess"}, "extra": 1}
    document = problem(api.client.post("/v1/audits", json=body), 422, "request-invalid")
    assert {error["pointer"] for error in document["errors"]} == {"/checkpoint", "/calibration/provenance", "/extra"}


def test_pages_hold_every_audit_once_newest_first(api: Api) -> None:
    ids = [api.submit() for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = api.client.get("/v1/audits", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [record["id"] for record in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]
    problem(api.client.get("/v1/audits", params={"cursor": "made-up"}), 422, "cursor-invalid")


def test_filters_narrow_the_list(api: Api) -> None:
    wanted = api.submit(run="a/b", labels={"team": "x:y"}, checkpoint="s3://models/run/1")
    api.submit(run="other", labels={"team": "z"}, checkpoint="/data/run/1")
    for params in (
        {"run": "a/b"},
        {"label": "team:x:y"},
        {"checkpoint_prefix": "s3://models/"},
        {"state": "queued", "run": "a/b"},
    ):
        assert [record["id"] for record in api.client.get("/v1/audits", params=params).json()["items"]] == [wanted]
    assert api.client.get("/v1/audits", params={"state": "failed"}).json()["items"] == []
    colons = api.submit(labels={"k8s:app": "web"})
    assert [record["id"] for record in api.client.get("/v1/audits?label=k8s:app:web").json()["items"]] == [colons]
    for label in (":", "k8s:", ":web", "k8s:app:" + "web:" * 10_000):
        assert api.client.get("/v1/audits", params={"label": label}).json()["items"] == []
    assert problem(api.client.get("/v1/audits?label=team"), 422, "parameter-invalid")["parameter"] == "label"


def test_a_long_poll_answers_when_the_audit_ends(api: Api) -> None:
    audit_id = api.submit()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.client.get, f"/v1/audits/{audit_id}", params={"wait": 60})
        claim = api.controller.claim()
        api.controller.advance(claim, 1)
        api.controller.publish(claim)
        response = answer.result(timeout=50)
    assert response.json()["state"] == "succeeded"
    assert response.json()["summary"]["status"] == "holds"
    assert "retry-after" not in response.headers


def test_a_long_poll_gives_up_with_the_audit_as_it_is(api: Api) -> None:
    response = api.client.get(f"/v1/audits/{api.submit()}", params={"wait": 0.5})
    assert response.json()["state"] == "queued"
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("wait", ["-1", "61", "soon"])
def test_a_wait_out_of_range_is_refused(api: Api, wait: str) -> None:
    document = problem(api.client.get(f"/v1/audits/{api.submit()}", params={"wait": wait}), 422, "parameter-invalid")
    assert document["errors"][0]["parameter"] == "wait"


def test_cancel_ends_a_queued_audit_and_asks_a_running_one(api: Api) -> None:
    queued = api.submit()
    assert api.client.post(f"/v1/audits/{queued}/cancel").json()["state"] == "cancelled"
    problem(api.client.post(f"/v1/audits/{queued}/cancel"), 409, "audit-ended")
    running = api.submit()
    claim = api.controller.claim()
    assert api.client.post(f"/v1/audits/{running}/cancel").json()["state"] == "cancelling"
    assert api.controller.leases.cancelled(claim)
    assert api.client.get(f"/v1/audits/{running}").json()["state"] == "cancelled"


def test_delete_removes_the_audit_and_its_objects_and_nothing_else(api: Api) -> None:
    deleted, kept = api.succeeded(), api.succeeded()
    api.context.store.put("tenants/default/results/solved", b"shared")
    api.context.store.put(f"tenants/default/audits/{deleted}/2/manifest.json", b"left by a lost controller")
    assert api.client.delete(f"/v1/audits/{deleted}").status_code == 204
    problem(api.client.get(f"/v1/audits/{deleted}"), 404, "audit-not-found")
    keys = [stored.key for stored in api.context.store.list("tenants/")]
    assert "tenants/default/results/solved" in keys
    assert not any(deleted in key for key in keys)
    assert api.client.get(f"/v1/audits/{kept}/report.json").status_code == 200


def test_an_audit_at_work_is_not_deleted(api: Api) -> None:
    audit_id = api.submit()
    problem(api.client.delete(f"/v1/audits/{audit_id}"), 409, "audit-not-ended")
    assert api.client.get(f"/v1/audits/{audit_id}").status_code == 200


def test_links_say_what_can_be_done(api: Api) -> None:
    audit_id = api.submit()
    assert "cancel" in api.client.get(f"/v1/audits/{audit_id}").json()["links"]
    api.controller.publish(api.controller.claim())
    links = api.client.get(f"/v1/audits/{audit_id}").json()["links"]
    assert "cancel" not in links
    for name in ("self", "events", "report", "page", "artifacts"):
        assert api.client.get(links[name]).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/audits/{}"),
        ("DELETE", "/v1/audits/{}"),
        ("POST", "/v1/audits/{}/cancel"),
        ("GET", "/v1/audits/{}/events"),
        ("GET", "/v1/audits/{}/report"),
        ("GET", "/v1/audits/{}/report.json"),
        ("GET", "/v1/audits/{}/report.html"),
        ("GET", "/v1/audits/{}/artifacts"),
        ("GET", "/v1/audits/{}/artifacts/report.json"),
    ],
)
def test_another_tenants_audit_does_not_exist(api: Api, method: str, path: str) -> None:
    theirs = api.submit(headers=api.token("read", "write", tenant="them"))
    api.controller.publish(api.controller.claim())
    for audit_id in (theirs, "01KACM2V7M3J0Q4S8R0V5N9T2E"):
        problem(api.client.request(method, path.format(audit_id)), 404, "audit-not-found")


def test_a_tenant_with_an_allow_list_of_its_own_reads_there_and_nowhere_else(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, allow=["/data"], tenant_allow={"acme": ["s3://acme"]})
    app = create_app(settings)
    with TestClient(app, base_url="http://127.0.0.1:8734") as client:
        for tenant, own, foreign in (("acme", "s3://acme/run", "/data/ckpt"), ("other", "/data/ckpt", "s3://acme/run")):
            token = app.state.context.tokens.create(tenant, "test", ALL)
            client.headers["Authorization"] = f"Bearer {token}"
            body = {"checkpoint": own, "calibration": {"texts": ["a text"]}}
            assert client.post("/v1/audits", json=body).status_code == 202
            refused = client.post("/v1/audits", json={**body, "checkpoint": foreign})
            assert problem(refused, 422, "uri-refused")["pointer"] == "/checkpoint"


def test_an_allow_list_that_is_none_stops_the_start(tmp_path: Path) -> None:
    app = create_app(Settings(state_dir=tmp_path, tenant_allow={"acme": ["models"]}))
    with pytest.raises(UserError, match="models"), TestClient(app):
        pass
