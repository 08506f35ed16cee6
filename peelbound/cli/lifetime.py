"""How long something lasts, as one writes it on a command line."""

import re
from datetime import timedelta

import click

from peelbound.service.schemas.tenant import LONGEST_KEPT_DAYS

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


class Lifetime(click.ParamType["timedelta | None"]):
    """A time like 90d, 12h or 30m, of at most a hundred years; `never` is None."""

    name = "lifetime"

    def convert(
        self, value: "str | timedelta | None", param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta | None:
        """Parse."""
        if value is None or isinstance(value, timedelta):
            return value
        if value == "never":
            return None
        found = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", value)
        if found is None:
            self.fail(f"{value!r} is not a time like 90d, 12h, 30m, nor never", param, ctx)
        lasts = int(found[1]) * _UNITS[found[2]]
        if lasts > timedelta(days=LONGEST_KEPT_DAYS):
            self.fail(f"{value!r} is longer than {LONGEST_KEPT_DAYS}d; say never", param, ctx)
        return lasts
