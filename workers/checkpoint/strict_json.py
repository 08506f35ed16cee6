"""JSON as strangers send it: nothing but the parsed object or a `CheckpointError` comes out."""

import json
import reprlib
from typing import Any

from peelbound.workers.errors import CheckpointError

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 160
_REPR.maxlist = _REPR.maxdict = 6

quoted = _REPR.repr
"""`repr`, shortened: what a file says may be megabytes long, and it goes into error messages."""


MAX_DEPTH = 32
"""Objects and lists within one another; deeper ones would exhaust the stack of whoever walks or encodes them."""


class _NotStrictError(ValueError):
    """Valid to a lenient parser, but read differently by different ones."""


def parse_object(raw: bytes, *, file: str, slug: str, remedy: str) -> dict[str, Any]:
    """Parse a JSON object in UTF-8 without duplicate keys, nested at most `MAX_DEPTH` deep.

    Raises:
        CheckpointError: with `slug`, naming `file` and what is wrong.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
        _check_depth(value)
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:  # not UTF-8, not JSON, a duplicate key, an integer of thousands of digits
        problem = str(error)
    else:
        if isinstance(value, dict):
            return value
        problem = f"it holds {quoted(value)} and not an object"
    raise CheckpointError(
        f"{file} is not a valid JSON object: {problem}.", slug=slug, remedy=remedy, pointer="/checkpoint"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # A parser that keeps the first of two equal keys would see another file than one that keeps the last.
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _NotStrictError(f"the key {quoted(twice)} occurs twice")
    for key in unique:
        key.encode()  # a lone surrogate could not be written into a report
    return unique


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    if level:
        raise _NotStrictError("it is nested too deeply")
