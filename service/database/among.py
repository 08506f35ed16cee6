"""Rows by many keys, in a query that is the same for any number of them: arrays on PostgreSQL, a JSON text on SQLite.

A list of parameters would be bounded (65,535 and 32,766 of them), and each length of it would be a query of its own,
to be written out, parsed and planned anew.
"""

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Engine, Text, bindparam, func, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute

Key = tuple[str, ...]


class Among:
    """A condition for statements that are built once, and the parameters that each execution gives it.

    Args:
        engine: of the database.
        columns: those that a key names, in its order.
    """

    def __init__(self, engine: Engine, *columns: InstrumentedAttribute[str]) -> None:
        self._arrays = engine.dialect.name == "postgresql"
        if self._arrays:
            arrays = (bindparam(f"keys_{n}", type_=ARRAY(Text)) for n in range(len(columns)))
            rows = select(*(func.unnest(array, type_=Text) for array in arrays))
        else:
            each = func.json_each(bindparam("keys", type_=Text)).table_valued("value")
            rows = select(*(func.json_extract(each.c.value, f"$[{n}]", type_=Text) for n in range(len(columns))))
        self._width = len(columns)
        self.condition: ColumnElement[bool] = (tuple_(*columns) if len(columns) > 1 else columns[0]).in_(rows)

    def parameters(self, keys: Iterable[Key]) -> dict[str, Any]:
        """The keys, for one execution."""
        if not self._arrays:
            return {"keys": json.dumps(list(keys))}
        # PostgreSQL has no NUL in any text, and would refuse the whole question for one key with one.
        storable = [key for key in keys if not any("\0" in part for part in key)]
        return {f"keys_{n}": [key[n] for key in storable] for n in range(self._width)}
