"""What all wire models have in common."""

import math
from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class WireModel(BaseModel):
    """Base of all models on the wire: unknown fields are refused, instances are immutable.

    What a service of another version may have written, in its database or as its answer, is read with
    ``extra="ignore"``: versions add fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null", use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Leave what is answered open to more fields: later versions add some, and a client that was generated from the
        schema must not fail at them."""
        schema = handler(core)
        if handler.mode == "serialization":
            handler.resolve_ref_schema(schema).pop("additionalProperties", None)
        return schema


def _no_text(value: object) -> object:
    """Python takes `true` and "8" for numbers; JSON, and the schema that we publish, do not."""
    if isinstance(value, bool | str | bytes):
        raise ValueError("a number is needed")
    return value


Whole = Annotated[int, BeforeValidator(_no_text)]
"""A whole number that a client sends."""
Number = Annotated[float, BeforeValidator(_no_text)]
"""A number that a client sends."""


def _as_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs its UTC offset")
    return value.astimezone(UTC)


UtcTime = Annotated[
    datetime,
    AfterValidator(_as_utc),
    PlainSerializer(lambda t: t.isoformat(timespec="milliseconds").replace("+00:00", "Z"), when_used="json"),
]
"""A point in time, RFC 3339 in UTC on the wire."""


Measured = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]}),
]
"""A measurement. JSON has no NaN and no infinity: one that could not be taken, or diverged, is null on the wire."""
