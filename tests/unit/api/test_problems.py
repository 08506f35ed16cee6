import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from peelbound.api.problem_types import describe
from peelbound.service.problems import as_problem
from peelbound.workers.errors import OutOfMemory, PeelboundError, StorageUnavailable, UserError
from tests.unit.api.harness import BODY, Api, problem

ROOT = Path(__file__).parents[3]


def test_unknown_routes_and_methods_are_problems(api: Api) -> None:
    problem(api.client.get("/v2/audits"), 404, "route-not-found")
    response = api.client.put("/v1/audits", json=BODY)
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "GET, POST"
    assert api.client.put("/v1/audits/x").headers["allow"] == "DELETE, GET"
    assert api.client.delete("/healthz").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("value", [True, "8", 8.5])
def test_only_numbers_are_taken_for_numbers(api: Api, value: object) -> None:
    for changes, pointer in [
        ({"seed": value}, "/seed"),
        ({"options": {"grain": value}}, "/options/grain"),
        ({"calibration": {"token_ids": [[1, value]]}}, "/calibration/token_ids/0/1"),
    ]:
        response = api.client.post("/v1/audits", json={**BODY, **changes})
        assert problem(response, 422, "request-invalid")["pointer"] == pointer


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"calibration": {"token_ids": [[1, "", ""], [""]]}}, "/calibration/token_ids/0/1"),
        ({"calibration": {"texts": ["", 1, 2]}}, "/calibration/texts/1"),
        ({"options": {"maps": [[1], ["", ""], [""]]}}, "/options/maps/1/0"),
        ({"options": {"rhos": ["", ""]}}, "/options/rhos/0"),
    ],
)
def test_of_a_list_the_first_fault_is_told(api: Api, changes: dict[str, object], place: str) -> None:
    """There may be as many as the body has bytes."""
    refused = problem(api.client.post("/v1/audits", json={**BODY, **changes}), 422, "request-invalid")
    assert [fault["pointer"] for fault in refused["errors"]] == [place]


@pytest.mark.parametrize("of", ["", "calibration", "options", "labels"])
def test_an_object_of_very_many_members_is_refused_whole(api: Api, of: str) -> None:
    many = {f"x{number}\n": 0 for number in range(101)}
    refused = problem(api.client.post("/v1/audits", json={of: many} if of else many), 422, "request-invalid")
    assert len(refused["errors"]) == 1
    assert "101 members" in refused["detail"]


@pytest.mark.parametrize("route", ["POST audits:plan", "POST webhooks", "PATCH webhooks/x", "POST webhooks/x/rotate"])
def test_so_it_is_by_every_route_that_takes_a_body(api: Api, route: str) -> None:
    method, _, path = route.partition(" ")
    body = {f"x{number}": 0 for number in range(101)}
    assert (
        "101 members" in problem(api.client.request(method, f"/v1/{path}", json=body), 422, "request-invalid")["detail"]
    )


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"checkpoint": NaN'])
def test_a_body_that_is_no_json_is_a_problem(api: Api, body: bytes) -> None:
    response = api.client.post("/v1/audits", content=body, headers={"Content-Type": "application/json"})
    assert problem(response, 400, "body-unreadable")["remedy"]


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b""])
def test_a_body_that_is_no_object_is_a_problem(api: Api, body: bytes) -> None:
    response = api.client.post("/v1/audits", content=body, headers={"Content-Type": "application/json"})
    problem(response, 422, "request-invalid")


def test_a_form_is_not_taken_for_json(api: Api) -> None:
    response = api.client.post("/v1/audits", content=b"{}", headers={"Content-Type": "text/plain"})
    problem(response, 422, "request-invalid")


def test_deeply_nested_json_is_a_problem(api: Api) -> None:
    response = api.client.post("/v1/audits", content=b"[" * 4000, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_a_declared_length_beyond_the_limit_is_refused(api: Api) -> None:
    response = api.client.post("/v1/audits", json={**BODY, "run": "x" * 5000})
    assert "4096" in problem(response, 413, "body-too-large")["detail"]


def test_a_stream_beyond_the_limit_is_refused_and_not_read_to_its_end(api: Api) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b" " * 1024

    response = api.client.post("/v1/audits", content=endless(), headers={"Content-Type": "application/json"})
    problem(response, 413, "body-too-large")
    assert taken <= 1000


def test_an_unexpected_error_says_nothing_about_our_insides(api: Api) -> None:
    def broken() -> None:
        raise RuntimeError("secret path /srv/x")

    api.client.app.add_api_route("/broken", broken)
    response = api.client.get("/broken")
    problem(response, 500, "internal")
    assert "secret" not in response.text


def test_the_offending_input_is_not_echoed(api: Api) -> None:
    response = api.client.post("/v1/audits", json={**BODY, "run": "\n" + "s3cret" * 10})
    problem(response, 422, "request-invalid")
    assert "s3cret" not in response.text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("x", slug="anything-else"), 422),
        (StorageUnavailable("x"), 503),
        (OutOfMemory("x", bytes_needed=7), 503),
        (PeelboundError("x"), 500),
    ],
)
def test_the_status_says_who_can_mend_an_error(error: PeelboundError, status: int) -> None:
    document = as_problem(error)
    assert document.status == status
    assert document.slug == error.slug
    assert document.model_extra == error.extra


def test_every_slug_in_the_sources_is_described_and_served(api: Api) -> None:
    slugs = set()
    for folder in ("api", "service", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            slugs |= set(re.findall(r'\bslug(?:: str)? ?= ?"([a-z0-9-]+)"', path.read_text(encoding="utf-8")))
            slugs |= set(re.findall(r'Problem\.make\(\s*"([a-z0-9-]+)"', path.read_text(encoding="utf-8")))
    assert {"uri-refused", "checkpoint-changed", "host-refused", "internal"} <= slugs
    assert sorted(slug for slug in slugs if describe(slug) is None) == []
    for slug in slugs:
        assert slug in api.client.get(f"/problems/{slug}").text


def test_an_unknown_problem_type_is_a_problem_itself(api: Api) -> None:
    problem(api.client.get("/problems/no-such"), 404, "route-not-found")


def test_half_a_surrogate_pair_in_a_text_is_refused_where_it_stands(api: Api) -> None:
    body = b'{"checkpoint": "/data/ckpt", "calibration": {"texts": ["fine \\ud83d\\ude00", "x\\ud800"]}}'
    for path in ("/v1/audits", "/v1/audits:plan"):
        response = api.client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert problem(response, 422, "request-invalid")["pointer"] == "/calibration/texts/1"


@pytest.mark.parametrize("member", ['"run": "\\ud800"', '"labels": {"a": "\\ud800"}', '"labels": {"\\ud800": "a"}'])
def test_half_a_surrogate_pair_elsewhere_is_refused(api: Api, member: str) -> None:
    body = f'{{"checkpoint": "/data/ckpt", "calibration": {{"texts": ["x"]}}, {member}}}'.encode()
    response = api.client.post("/v1/audits", content=body, headers={"Content-Type": "application/json"})
    problem(response, 422, "request-invalid")


def test_half_a_surrogate_pair_in_a_name_is_refused(api: Api) -> None:
    body = b'{"checkpoint": "/data/\\udfff", "calibration": {"uri": "/data/t"}, "\\ud800": 1}'
    response = api.client.post("/v1/audits", content=body, headers={"Content-Type": "application/json"})
    problem(response, 422, "request-invalid")
