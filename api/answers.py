"""Answers that are written out once: the framework would validate a route's model again before it serialises it."""

from collections.abc import Mapping

from starlette.responses import Response

from peelbound.service.schemas.base import WireModel


def json_answer(model: WireModel, headers: Mapping[str, str] | None = None) -> Response:
    """The model as the framework would send it; the route's decorator names it for the OpenAPI document."""
    return Response(model.model_dump_json(by_alias=True), media_type="application/json", headers=headers)
