from collections.abc import Iterator

import anyio
import pytest
from httpx2 import Response
from sqlalchemy import text
from starlette.testclient import TestClient
from starlette.types import Message, Scope

from peelbound.api.app import create_app
from peelbound.service.settings import Settings
from tests.unit.api.harness import BODY, Api, problem

PROTECTED = [
    ("GET", "/v1/audits", "read"),
    ("POST", "/v1/audits", "write"),
    ("POST", "/v1/audits:plan", "write"),
    ("GET", "/v1/audits/x", "read"),
    ("DELETE", "/v1/audits/x", "write"),
    ("POST", "/v1/audits/x/cancel", "write"),
    ("GET", "/v1/audits/x/events", "read"),
    ("GET", "/v1/audits/x/report", "read"),
    ("GET", "/v1/audits/x/report.json", "read"),
    ("GET", "/v1/audits/x/report.html", "read"),
    ("GET", "/v1/audits/x/artifacts", "read"),
    ("GET", "/v1/audits/x/artifacts/y", "read"),
    ("GET", "/v1/runs", "read"),
    ("GET", "/v1/runs/x", "read"),
    ("GET", "/v1/runs/x/report.html", "read"),
    ("POST", "/v1/webhooks", "write"),
    ("GET", "/v1/webhooks", "read"),
    ("GET", "/v1/webhooks/x", "read"),
    ("PATCH", "/v1/webhooks/x", "write"),
    ("DELETE", "/v1/webhooks/x", "write"),
    ("POST", "/v1/webhooks/x/rotate", "write"),
    ("POST", "/v1/webhooks/x/test", "write"),
    ("GET", "/v1/webhooks/x/deliveries", "read"),
    ("POST", "/v1/webhooks/x/deliveries/y/redeliver", "write"),
    ("GET", "/v1/log", "admin"),
    ("GET", "/metrics", "admin"),
]


@pytest.fixture
def stranger(api: Api) -> Iterator[Api]:
    """The application with a client that brings no token."""
    del api.client.headers["Authorization"]
    return api


@pytest.mark.parametrize(("method", "path", "scope"), PROTECTED)
def test_a_route_needs_a_known_token_with_its_scope(stranger: Api, method: str, path: str, scope: str) -> None:
    json = BODY if method == "POST" else None
    response = stranger.client.request(method, path, json=json)
    problem(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"].startswith("Bearer")
    for wrong in ("Bearer peel_unknown", "Bearer", "Basic eDp5"):
        response = stranger.client.request(method, path, json=json, headers={"Authorization": wrong})
        problem(response, 401, "unauthenticated")
    others = {"read", "write", "admin"} - {scope}
    response = stranger.client.request(method, path, json=json, headers=stranger.token(*others))
    assert scope in problem(response, 403, "scope-missing")["detail"]


def test_every_route_is_open_on_purpose_or_protected(stranger: Api) -> None:
    paths = stranger.client.get("/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    opened = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/problems/{slug}")}
    examples = {"{audit_id}": "x", "{name}": "y", "{run}": "x", "{webhook_id}": "x", "{delivery_id}": "y"}
    protected = set()
    for method, path in routes - opened:
        for parameter, example in examples.items():
            path = path.replace(parameter, example)
        protected.add((method, path))
    assert protected == {(method, path) for method, path, _ in PROTECTED}
    for method, path in opened:
        assert stranger.client.request(method, path.replace("{slug}", "uri-refused")).status_code == 200


def test_a_bad_body_of_a_stranger_is_not_even_judged(stranger: Api) -> None:
    problem(stranger.client.post("/v1/audits", json={"nonsense": 1}), 401, "unauthenticated")


@pytest.mark.parametrize("headers", [[], [(b"authorization", b"Bearer peel_unknown")]])
def test_the_body_of_a_stranger_is_not_even_read(stranger: Api, headers: list[tuple[bytes, bytes]]) -> None:
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/audits",
        "query_string": b"",
        "scheme": "http",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), *headers],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        sent.append(message)

    anyio.run(stranger.client.app, scope, receive, send)
    assert sent[0]["status"] == 401
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_database_that_is_gone_is_said_at_the_gate(api: Api) -> None:
    with api.context.engine.begin() as connection:
        connection.execute(text("DROP TABLE tokens"))
    problem(api.client.get("/v1/audits"), 503, "database-unavailable")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]:8734"])
def test_a_foreign_host_is_refused(api: Api, host: str) -> None:
    problem(api.client.get("/v1/audits", headers={"Host": host}), 421, "host-refused")
    assert api.client.get("/healthz", headers={"Host": host}).status_code == 200
    # Prometheus scrapes by address, with a token: past the check of names, and no further.
    problem(api.client.get("/metrics", headers={"Host": host, "Authorization": ""}), 401, "unauthenticated")


PAGE = "https://app.example.com"


@pytest.fixture
def open_to_pages(settings: Settings) -> Iterator[TestClient]:
    """The application for pages of one other origin, with a client that brings no token."""
    app = create_app(settings.model_copy(update={"allowed_origins": [PAGE]}))
    with TestClient(app, base_url="http://127.0.0.1:8734") as client:
        yield client


def _preflight(client: TestClient, origin: str, method: str, headers: str) -> Response:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return client.options("/v1/audits", headers={"Origin": origin} | asked)


def test_a_page_of_a_configured_origin_may_use_the_service_with_a_token(open_to_pages: TestClient) -> None:
    sent = "authorization,content-type,idempotency-key,last-event-id,x-request-id"
    for method in ("GET", "POST", "PATCH", "DELETE"):
        allowed = _preflight(open_to_pages, PAGE, method, sent)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in allowed.headers
    answer = open_to_pages.get("/v1/audits", headers={"Origin": PAGE})
    problem(answer, 401, "unauthenticated")  # and the page can read that
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-expose-headers"] == "Location, Retry-After, X-Request-Id, ETag"
    assert "Origin" in answer.headers["vary"]


def test_a_page_may_not_send_what_nobody_needs(open_to_pages: TestClient) -> None:
    problem(_preflight(open_to_pages, PAGE, "PUT", "authorization"), 400, "preflight-refused")
    problem(_preflight(open_to_pages, PAGE, "GET", "x-other"), 400, "preflight-refused")


@pytest.mark.parametrize("origin", ["https://evil.example", f"{PAGE}.evil.example", "http://app.example.com", "null"])
def test_a_page_of_another_origin_gets_no_leave(open_to_pages: TestClient, origin: str) -> None:
    refused = _preflight(open_to_pages, origin, "GET", "authorization")
    problem(refused, 403, "origin-refused")
    probed = open_to_pages.get("/healthz", headers={"Origin": origin})  # answered under any name
    for response in (refused, probed):
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9999", "LOCALHOST", "[::1]:8734"])
def test_our_own_names_are_answered_on_any_port(api: Api, host: str) -> None:
    assert api.client.get("/v1/audits", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:8734"])
def test_a_foreign_origin_is_refused(api: Api, origin: str) -> None:
    problem(api.client.post("/v1/audits", json=BODY, headers={"Origin": origin}), 403, "origin-refused")
    assert api.client.get("/v1/audits").json()["items"] == []


def test_our_own_origin_is_answered(api: Api) -> None:
    assert api.client.get("/v1/audits", headers={"Origin": "http://127.0.0.1:8734"}).status_code == 200


def test_the_link_becomes_a_cookie_that_only_reads(stranger: Api) -> None:
    audit_id = stranger.submit(headers=stranger.token("read", "write"))
    secret = stranger.token("read")["Authorization"].removeprefix("Bearer ")
    assert audit_id not in stranger.client.get("/").text
    response = stranger.client.get("/", params={"token": secret}, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    page = stranger.client.get("/")
    assert "/data/ckpt" in page.text
    assert secret not in page.text
    assert stranger.client.get(f"/v1/audits/{audit_id}").status_code == 200
    problem(stranger.client.post("/v1/audits", json=BODY), 401, "unauthenticated")
    problem(stranger.client.post(f"/v1/audits/{audit_id}/cancel"), 401, "unauthenticated")


def test_a_link_with_a_token_that_may_write_is_refused(stranger: Api) -> None:
    secret = stranger.token("read", "write")["Authorization"].removeprefix("Bearer ")
    response = stranger.client.get("/", params={"token": secret}, follow_redirects=False)
    problem(response, 403, "link-token-too-powerful")
    assert "set-cookie" not in response.headers
    problem(stranger.client.get("/", params={"token": "peel_unknown"}), 401, "unauthenticated")


def test_the_cookie_of_a_token_that_may_write_opens_nothing(stranger: Api) -> None:
    secret = stranger.token("read", "write")["Authorization"].removeprefix("Bearer ")
    stranger.client.cookies.set("peelbound_read", secret)
    problem(stranger.client.get("/v1/audits"), 401, "unauthenticated")


def test_names_on_the_index_page_are_text(stranger: Api) -> None:
    stranger.submit(headers=stranger.token("read", "write"), checkpoint="s3://models/<script>alert(1)</script>")
    secret = stranger.token("read")["Authorization"].removeprefix("Bearer ")
    page = stranger.client.get("/", params={"token": secret})
    assert "&lt;script&gt;" in page.text
    assert "<script>" not in page.text
