import json
from pathlib import Path
from typing import Any

import jsonschema_rs

from peelbound.api.app import create_app
from peelbound.api.openapi import text
from peelbound.service.settings import Settings
from tests.unit.api.harness import BODY, Api

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"


def test_the_committed_document_is_the_applications(settings: Settings) -> None:
    assert text(create_app(settings)) == COMMITTED.read_text(encoding="utf-8"), (
        "The HTTP interface has changed. If that is meant: python -m peelbound.api.openapi docs/openapi.json"
    )


def test_every_operation_has_an_id_a_tag_and_its_problems(settings: Settings) -> None:
    paths = create_app(settings).openapi()["paths"]
    operations = [operation for methods in paths.values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids) > 15
    for operation in operations:
        assert operation["tags"]
        for status, response in operation["responses"].items():
            if status >= "400":
                (schema,) = (content["schema"] for content in response["content"].values())
                assert schema == {"$ref": "#/components/schemas/Problem"}
        if "security" in operation:
            assert {"401", "403", "421", "429", "503"} <= set(operation["responses"])


def valid(document: dict[str, Any], schema: dict[str, Any], value: object) -> bool:
    """Whether a value is as a schema of the document has it."""
    return jsonschema_rs.is_valid({**schema, "components": document["components"]}, value)


def test_messages_to_webhooks_are_as_described(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    described = {
        name: path["post"]["requestBody"]["content"]["application/json"]["schema"]
        for name, path in document["webhooks"].items()
    }
    hook = api.client.post("/v1/webhooks", json={"url": "https://hooks.example.com/"}).json()["id"]
    api.succeeded()
    api.client.post(f"/v1/audits/{api.submit()}/cancel")
    api.client.post(f"/v1/webhooks/{hook}/test")
    sent = [json.loads(d["body"]) for d in api.client.get(f"/v1/webhooks/{hook}/deliveries").json()["items"]]
    assert [message["type"] for message in sent] == ["webhook.test", "audit.cancelled", "audit.succeeded"]
    for message in sent:
        fits = [name for name, schema in described.items() if valid(document, schema, message)]
        assert fits == ["webhook-test" if message["type"] == "webhook.test" else "audit-ended"]
        assert valid(document, described[fits[0]], message | {"later": 1, "data": message["data"] | {"later": 1}})
        del message["type"]
        assert not any(valid(document, schema, message) for schema in described.values())


def test_what_the_service_is_sent_may_hold_nothing_else_and_what_it_says_may(api: Api) -> None:
    document = api.client.get("/openapi.json").json()

    def fits(model: str, value: dict[str, Any]) -> bool:
        return valid(document, {"$ref": f"#/components/schemas/{model}"}, value)

    later = {"later": 1}
    assert fits("AuditRequest-Input", BODY)
    assert not fits("AuditRequest-Input", BODY | later)
    assert not fits("AuditRequest-Input", BODY | {"options": later})
    assert not fits("AuditRequest-Input", BODY | {"calibration": BODY["calibration"] | later})
    record = api.client.get(f"/v1/audits/{api.submit()}").json()
    request = record["request"]
    assert fits("AuditRecord", record)
    assert fits("AuditRecord", record | later)
    assert fits("AuditRecord", record | {"request": request | later})
    assert fits("AuditRecord", record | {"request": request | {"options": request["options"] | later}})
    assert not fits("AuditRecord", record | {"request": request | {"options": {"rhos": "x"}}})
    titles = [model["title"] for model in document["components"]["schemas"].values()]
    assert len(set(titles)) == len(titles)  # code generators name classes by them
