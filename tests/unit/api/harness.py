"""The whole application on SQLite and a directory, without a network."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from peelbound.api.app import create_app
from peelbound.api.context import Context
from peelbound.service.settings import Settings
from tests.acting_controller import ActingController

BODY: dict[str, Any] = {"checkpoint": "/data/ckpt", "calibration": {"uri": "/data/text.jsonl"}}
ALL = frozenset({"read", "write", "admin"})


@dataclass
class Api:
    """The application, a client whose token may do everything, and somebody who acts as the controller."""

    client: TestClient
    context: Context
    controller: ActingController

    def token(self, *scopes: str, tenant: str = "default") -> dict[str, str]:
        """The headers of a new token."""
        name = f"{tenant} {' '.join(scopes)}"
        return {"Authorization": f"Bearer {self.context.tokens.create(tenant, name, frozenset(scopes))}"}

    def submit(self, headers: dict[str, str] | None = None, **changes: Any) -> str:
        """Submit an audit; its id."""
        response = self.client.post("/v1/audits", json={**BODY, **changes}, headers=headers)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def succeeded(self, **changes: Any) -> str:
        """Submit an audit and let it succeed; its id."""
        audit_id = self.submit(**changes)
        self.controller.publish(self.controller.claim())
        return audit_id


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path, allow=["/data", "s3://models/"], max_request_bytes=4096)


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    app = create_app(settings)
    with TestClient(app, base_url="http://127.0.0.1:8734", raise_server_exceptions=False) as client:
        context: Context = app.state.context
        client.headers["Authorization"] = f"Bearer {context.tokens.create('default', 'test', ALL)}"
        yield Api(client, context, ActingController(context.engine, context.store))


def problem(response: Response, status: int, slug: str) -> dict[str, Any]:
    """The problem document that the response must carry."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"/problems/{slug}"
    assert document["status"] == status
    assert document["detail"]
    return document
