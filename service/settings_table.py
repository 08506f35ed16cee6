"""The table of settings in the documentation, made from `Settings`.

`python -m peelbound.service.settings_table docs/operations.md` writes it between the two marks.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from peelbound.service.settings import Settings

BEGIN = "<!-- settings: made by `make settings` -->"
END = "<!-- end of settings -->"
_SIZES = (("GiB", 1 << 30), ("MiB", 1 << 20))


def table() -> str:
    """A line of Markdown for each setting: variable, default, meaning."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `PEELBOUND_{name.upper()}` | {_default(name, field)} | {meaning} |")
    return "\n".join(lines)


def _default(name: str, field: FieldInfo) -> str:
    if name == "state_dir":
        return "the user's state directory"  # differs from user to user
    default: Any = field.get_default(call_default_factory=True, validated_data={})
    if default is None or default == "":
        return ""
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, list | dict):
        return f"`{json.dumps(default)}`"
    if name.endswith("_bytes"):
        for unit, size in _SIZES:
            if default % size == 0:
                return f"{default // size} {unit}"
    return f"{default:g}" if isinstance(default, float) else str(default)


def inserted(document: str) -> str:
    """The document with the table between the marks.

    Raises:
        ValueError: a mark is missing.
    """
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("the document has no place for the settings")
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(inserted(path.read_text(encoding="utf-8")), encoding="utf-8")
