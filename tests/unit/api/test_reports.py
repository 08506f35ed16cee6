import hashlib

import pytest

from peelbound.service.schemas.problem import Problem
from tests.synthetic_reports.whole import frozen_report
from tests.unit.api.harness import Api, problem


def test_report_json_is_what_was_published_byte_for_byte(api: Api) -> None:
    audit_id = api.submit()
    published = api.controller.publish(api.controller.claim(), frozen_report())
    for path in ("report", "report.json"):
        response = api.client.get(f"/v1/audits/{audit_id}/{path}")
        assert response.content == published
        assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("application/json, text/html", "application/json"),
        ("*/*", "application/json"),
    ],
)
def test_the_report_comes_as_accept_asks(api: Api, accept: str, kind: str) -> None:
    response = api.client.get(f"/v1/audits/{api.succeeded()}/report", headers={"Accept": accept})
    assert response.headers["content-type"].startswith(kind)
    assert response.headers["vary"] == "Accept"


def test_the_page_shows_the_verdict_and_may_load_nothing(api: Api) -> None:
    audit_id = api.submit(run="baseline", step=100)
    report = frozen_report()
    api.controller.publish(api.controller.claim(), report)
    response = api.client.get(f"/v1/audits/{audit_id}/report.html")
    assert report.blocks[2].reason.text in response.text
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


def test_no_report_before_the_end_nor_after_a_failure(api: Api) -> None:
    audit_id = api.submit()
    assert "queued" in problem(api.client.get(f"/v1/audits/{audit_id}/report"), 409, "report-not-available")["detail"]
    failure = Problem.make("checkpoint-shard-missing", "A shard is missing", 422, "model-2.safetensors is missing")
    assert api.controller.leases.fail(api.controller.claim(), failure)
    document = problem(api.client.get(f"/v1/audits/{audit_id}/artifacts"), 409, "report-not-available")
    assert document["state"] == "failed"
    assert api.client.get(f"/v1/audits/{audit_id}").json()["problem"]["type"] == "/problems/checkpoint-shard-missing"


def test_artifacts_are_listed_and_served_through_the_api(api: Api) -> None:
    audit_id = api.submit()
    api.controller.publish(api.controller.claim(), **{"timings.json": b"{}", "blocks_3.safetensors": b"\x00\x01" * 500})
    items = {item["name"]: item for item in api.client.get(f"/v1/audits/{audit_id}/artifacts").json()["items"]}
    assert set(items) == {"report.json", "timings.json", "blocks_3.safetensors"}
    for item in items.values():
        response = api.client.get(item["href"])
        assert hashlib.sha256(response.content).hexdigest() == item["sha256"]
        assert len(response.content) == item["bytes"]
        assert "attachment" in response.headers["content-disposition"]
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["nothing.json", "..%2Fmanifest.json", "manifest.json"])
def test_only_what_the_manifest_names_is_served(api: Api, name: str) -> None:
    document = problem(api.client.get(f"/v1/audits/{api.succeeded()}/artifacts/{name}"), 404, "artifact-not-found")
    assert "report.json" in document["remedy"]


def test_a_corrupt_report_is_not_served(api: Api) -> None:
    audit_id = api.succeeded()
    (path,) = api.context.settings.state_dir.glob(f"objects/**/{audit_id}/**/report.json*")
    path.write_bytes(path.read_bytes().replace(b"holds", b"hulds"))
    assert problem(api.client.get(f"/v1/audits/{audit_id}/report.json"), 503, "object-corrupt")


def test_runs_may_hold_slashes_colons_and_spaces(api: Api) -> None:
    api.succeeded(run="team/7b:lr 3e-4", step=200)
    api.succeeded(run="team/7b:lr 3e-4", step=100)
    assert api.client.get("/v1/runs").json() == {"items": ["team/7b:lr 3e-4"]}
    for path in ("team%2F7b%3Alr%203e-4", "team/7b:lr%203e-4"):
        series = api.client.get(f"/v1/runs/{path}").json()
        assert [point["step"] for point in series["points"]] == [100, 200]
        page = api.client.get(f"/v1/runs/{path}/report.html")
        assert "team/7b:lr 3e-4" in page.text
    problem(api.client.get("/v1/runs/unknown"), 404, "run-not-found")
    problem(api.client.get("/v1/runs/unknown/report.html"), 404, "run-not-found")
