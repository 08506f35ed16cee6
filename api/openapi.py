"""The OpenAPI document: `python -m peelbound.api.openapi docs/openapi.json` rewrites the committed one."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from peelbound.api.webhook_messages import messages
from peelbound.service.schemas.problem import Problem

TAGS = [
    {"name": "audits", "description": "Submit an audit, follow it, cancel or delete it; ask what one would cost."},
    {"name": "reports", "description": "What an audit found, as JSON and as a page, and its files."},
    {"name": "runs", "description": "The audits of one training run over its steps."},
    {"name": "webhooks", "description": "Endpoints that are told when audits end."},
    {"name": "operations", "description": "Probes, metrics, and what problem types mean."},
]


def document(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document, with the problem schema that the routes' error responses refer to."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            routes=app.routes,
            webhooks=messages.routes,
            tags=TAGS,
        )
        schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        _open_what_we_say(schema)
        for path in schema["paths"].values():
            for operation in path.values():
                for parameter in operation.get("parameters", ()):
                    parameter["schema"] = _without_null(parameter["schema"])
        app.openapi_schema = schema
    return app.openapi_schema


def _open_what_we_say(schema: dict[str, Any]) -> None:
    """Let the models of answers and messages have more fields: later versions add some, and a client that was generated
    from this document must not fail at them. What is sent to the service may hold none but those described; of a model
    that is both, answers refer to a copy.
    """
    models = schema["components"]["schemas"]
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    sent = _reached(models, [operation.get("requestBody") for operation in operations])
    said = _reached(models, [schema.get("webhooks"), *(operation["responses"] for operation in operations)])
    both = {name for name in sent & said if any(_closed(models[n]) for n in _reached(models, _reference(name)))}
    for name in sorted(both):
        models[f"{name}-Output"] = {**copy.deepcopy(models[name]), "title": f"{name}Output"}
    answers = [model for name, model in models.items() if name not in sent]
    for part in (schema.get("webhooks"), *(operation["responses"] for operation in operations), *answers):
        _refer(part, {_reference(name)["$ref"]: _reference(f"{name}-Output")["$ref"] for name in both})
    for model in answers:
        model.pop("additionalProperties", None)


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _closed(model: dict[str, Any]) -> bool:
    return model.get("additionalProperties") is False


def _refer(part: Any, others: dict[str, str]) -> None:
    """Let a part of the document refer to other models."""
    if isinstance(part, dict):
        if part.get("$ref") in others:
            part["$ref"] = others[part["$ref"]]
        for inner in part.values():
            _refer(inner, others)
    elif isinstance(part, list):
        for inner in part:
            _refer(inner, others)


def _reached(models: dict[str, Any], part: Any) -> set[str]:
    """Names of the models that a part of the document refers to, and of those that these refer to."""
    reached: set[str] = set()
    named = _models_in(part)
    while named:
        reached |= named
        named = {inner for name in named for inner in _models_in(models[name])} - reached
    return reached


def _models_in(part: Any) -> set[str]:
    """Names of the models that a part of the document refers to."""
    if isinstance(part, dict):
        here = {part["$ref"].rpartition("/")[2]} if isinstance(part.get("$ref"), str) else set()
        return here.union(*map(_models_in, part.values()))
    return set().union(*map(_models_in, part)) if isinstance(part, list) else set()


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter may be left out, which the framework describes as null; but no text stands for null in a URL."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    found: dict[str, Any] = kinds[0] | {name: value for name, value in schema.items() if name != "anyOf"}
    return found


def text(app: FastAPI) -> str:
    """The document as it is committed."""
    return json.dumps(document(app), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    from peelbound.api.app import create_app

    Path(sys.argv[1]).write_text(text(create_app()), encoding="utf-8")
