from pathlib import Path

from peelbound.api.app import create_app
from peelbound.api.openapi import text
from peelbound.service.settings import Settings

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
