"""The action log: every change leaves an entry, and no entry can be changed."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.unit.api.harness import ALL, BODY, Api, problem


def entries(api: Api, **params: str | int) -> list[tuple[str, str]]:
    items = api.client.get("/v1/log", params=params).json()["items"]
    return [(entry["action"], entry["target"]) for entry in items]


def test_every_change_is_logged_with_its_author_and_request(api: Api) -> None:
    audit_id = api.submit(headers={"X-Request-Id": "ours-1"})
    api.client.post(f"/v1/audits/{audit_id}/cancel", headers={"X-Request-Id": "ours-2"})
    api.client.delete(f"/v1/audits/{audit_id}", headers={"X-Request-Id": "not harmless"})
    newest = api.client.get("/v1/log").json()["items"]
    assert [(entry["action"], entry["target"]) for entry in newest] == [
        ("audit.delete", audit_id),
        ("audit.cancel", audit_id),
        ("audit.submit", audit_id),
    ]
    assert [entry["request_id"] for entry in newest[1:]] == ["ours-2", "ours-1"]
    assert newest[0]["request_id"] != "not harmless"
    (token,) = [token for token in api.context.tokens.listed() if token.name == "test"]
    assert {entry["actor"] for entry in newest} == {token.id}
    assert {entry["actor_name"] for entry in newest} == {"test"}


def test_what_changed_nothing_is_not_logged(api: Api) -> None:
    audit_id = api.submit(headers={"Idempotency-Key": "k"})
    api.client.post("/v1/audits", json=BODY, headers={"Idempotency-Key": "k"})
    api.client.post("/v1/audits", json={"checkpoint": "/etc", "calibration": {"texts": ["x"]}})
    for _ in range(3):
        api.client.post(f"/v1/audits/{audit_id}/cancel")
    assert [action for action, _ in entries(api)] == ["audit.cancel", "audit.submit"]


def test_an_entry_can_be_neither_changed_nor_deleted(api: Api) -> None:
    api.submit()
    for statement in ("UPDATE action_log SET actor = 'somebody else'", "DELETE FROM action_log"):
        with pytest.raises(DBAPIError, match="append-only"), api.context.engine.begin() as connection:
            connection.execute(text(statement))
    assert len(entries(api)) == 1


def test_pages_of_the_log_hold_every_entry_once(api: Api) -> None:
    ids = [api.submit() for _ in range(5)]
    seen: list[str] = []
    params: dict[str, str | int] = {"limit": 2}
    while True:
        page = api.client.get("/v1/log", params=params).json()
        seen += [entry["target"] for entry in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == ids[::-1]
    assert entries(api, target=ids[2]) == [("audit.submit", ids[2])]


def test_every_answer_names_its_request(api: Api) -> None:
    for path in ("/healthz", "/v1/audits", "/v1/audits/none", "/nowhere"):
        assert len(api.client.get(path).headers["x-request-id"]) == 26
        assert api.client.get(path, headers={"X-Request-Id": "a:b-1"}).headers["x-request-id"] == "a:b-1"
    problem(api.client.get("/v1/log", headers=api.token(*(ALL - {"admin"}))), 403, "scope-missing")
