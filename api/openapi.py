"""The OpenAPI document: `python -m peelbound.api.openapi docs/openapi.json` rewrites the committed one."""

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
        for name, model in schema["components"]["schemas"].items():
            if (
                "-" in name
            ):  # code generators name classes by titles: of a model that is sent and answered there are two
                model["title"] = name.replace("-", "")
        for path in schema["paths"].values():
            for operation in path.values():
                for parameter in operation.get("parameters", ()):
                    parameter["schema"] = _without_null(parameter["schema"])
        app.openapi_schema = schema
    return app.openapi_schema


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
