import hashlib
import tempfile
from pathlib import Path

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


@pytest.fixture
def served(api: Api) -> tuple[str, bytes, str]:
    """An artifact: its path, its content, its tag."""
    audit_id, content = api.submit(), bytes(range(100))
    api.controller.publish(api.controller.claim(), **{"a.bin": content})
    return f"/v1/audits/{audit_id}/artifacts/a.bin", content, f'"{hashlib.sha256(content).hexdigest()}"'


def test_an_artifact_is_the_same_by_its_tag_however_often_it_is_asked_for(
    api: Api, served: tuple[str, bytes, str]
) -> None:
    path, content, tag = served
    for _ in range(2):
        whole = api.client.get(path)
        assert (whole.status_code, whole.headers["etag"], whole.content) == (200, tag, content)
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = api.client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.headers["etag"], again.content) == (304, tag, b"")
    assert api.client.get(path, headers={"If-None-Match": '"other"'}).content == content


def test_a_download_that_broke_off_is_continued_where_the_artifact_is_the_same(
    api: Api, served: tuple[str, bytes, str]
) -> None:
    path, content, tag = served
    rest = {"Range": "bytes=40-"}
    for headers in (rest, rest | {"If-Range": tag}):
        part = api.client.get(path, headers=headers)
        assert (part.status_code, part.headers["content-range"]) == (206, "bytes 40-99/100")
        assert part.content == content[40:]
    whole = api.client.get(path, headers=rest | {"If-Range": '"other"'})
    assert (whole.status_code, whole.content) == (200, content)


def test_parts_that_an_artifact_does_not_have_are_refused_as_anything_is(
    api: Api, served: tuple[str, bytes, str]
) -> None:
    path, _, _ = served
    beyond = api.client.get(path, headers={"Range": "bytes=999-"})
    assert "100 bytes" in problem(beyond, 416, "range-invalid")["detail"]
    assert beyond.headers["content-range"] == "bytes */100"
    assert problem(api.client.get(path, headers={"Range": "bytes=x-y"}), 400, "range-invalid")["instance"] == path


def test_the_head_of_an_artifact_says_what_there_is(api: Api, served: tuple[str, bytes, str]) -> None:
    path, _, tag = served
    whole, head = api.client.get(path), api.client.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
    for name in ("content-length", "content-type", "content-disposition", "accept-ranges", "x-content-type-options"):
        assert head.headers[name] == whole.headers[name]
    assert api.client.head(f"{path}x").status_code == 404
    assert api.client.head(path, headers={"If-None-Match": tag}).status_code == 304


def test_nothing_is_left_of_an_answer_in_the_folder_for_temporary_files(
    api: Api, served: tuple[str, bytes, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    for wanted in ("bytes=0-9", "bytes=999-", "bytes=x-y"):
        api.client.get(served[0], headers={"Range": wanted})
        assert list(scratch.iterdir()) == []


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
