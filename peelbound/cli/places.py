"""Types of options that name a place: a path or a URI.

An empty one is refused, since it mostly comes of a variable that is not set, and would mean the current directory.
"""

import os
from pathlib import Path
from typing import Any

import click

_EMPTY = "it is empty; is a variable not set?"


class Place(click.ParamType[str]):
    """A URI as it is, a path made absolute with its symlinks resolved."""

    name = "place"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is empty, begins with the home of nobody, or has symlinks that go in a circle."""
        if not value.strip():
            self.fail(_EMPTY, param, ctx)
        if "://" in value:
            return value
        try:
            return self._absolute(Path(value).expanduser())
        except RuntimeError as error:
            self.fail(f"{value} is no path: {error}", param, ctx)

    def _absolute(self, path: Path) -> str:
        return str(path.resolve())


class Prefix(Place):
    """A URI as it is, a path made absolute: without `..`, which the service refuses, and with its symlinks."""

    def _absolute(self, path: Path) -> str:
        return os.path.abspath(path)  # noqa: PTH100 - absolute() keeps `..`


class Directory(click.Path):
    """A directory, whether it is there already or not."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As `click.Path`, but for an empty one."""
        if not str(value).strip():
            self.fail(_EMPTY, param, ctx)
        return super().convert(value, param, ctx)
