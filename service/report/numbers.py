"""How numbers are written: one way for each kind, with a true minus sign and tabular digits in mind."""

import math
from collections.abc import Mapping, Sequence

from peelbound.service.schemas.report import Interval, Score

ABSENT = "–"


def decimal(value: float | None, places: int = 4, *, sign: bool = False) -> str:
    """`value` with a fixed number of decimals, e.g. ``3.4183``; with `sign` also ``+0.0071``.

    A value that rounds to zero loses its sign, None is a dash, and NaN and infinities say what they are.
    """
    if value is None:
        return ABSENT
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    rounded = round(value, places)
    text = f"{abs(rounded):.{places}f}"
    if rounded < 0:
        return f"−{text}"
    return f"+{text}" if sign and rounded > 0 else text


def signed(value: float | None, places: int = 4) -> str:
    """A difference: `decimal` with its sign."""
    return decimal(value, places, sign=True)


def interval(value: Interval | None, *, sign: bool = False) -> str:
    """An estimate and its interval, e.g. ``+0.0071 [0.0052, 0.0090]``; the estimate alone where nothing varied."""
    if value is None:
        return ABSENT
    return f"{decimal(value.estimate, sign=sign)} {limits(value)}".rstrip()


def limits(value: Interval) -> str:
    """The interval alone, e.g. ``[0.0052, 0.0090]``; nothing where nothing varied, as in a single document."""
    return "" if value.low == value.high else f"[{decimal(value.low)}, {decimal(value.high)}]"


def gain(value: Interval | None) -> str:
    """A difference with its interval: the estimate carries its sign."""
    return interval(value, sign=True)


def score(value: Score | None) -> str:
    """The z-value of a scale score, e.g. ``+9.1``."""
    return ABSENT if value is None else signed(value.z, 1)


def count(value: int) -> str:
    """An exact count with thousands apart, e.g. ``12,288``."""
    return f"{value:,}"


def short(value: float, *, base: int = 1000, units: tuple[str, ...] = ("", " k", " M", " B", " T")) -> str:
    """A magnitude in about three digits, e.g. ``135 M``."""
    scaled, unit = float(value), 0
    # 999.7 would be written as 1000 of its unit.
    while scaled >= base - 0.5 and unit < len(units) - 1:
        scaled, unit = scaled / base, unit + 1
    digits = f"{scaled:.0f}" if scaled >= 99.5 else f"{scaled:.3g}"
    return f"{digits}{units[unit]}"


def size(value: int) -> str:
    """Bytes in binary units, e.g. ``513 MiB``."""
    return short(value, base=1024, units=(" B", " KiB", " MiB", " GiB", " TiB"))


def scalar(value: object) -> str:
    """Any JSON scalar as a reader expects it: floats with four decimals unless that would hide them."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value) if value >= 0 else f"−{count(-value)}"
    if isinstance(value, float):
        return _float(value)
    return str(value)


def _float(value: float) -> str:
    if math.isfinite(value) and value != 0 and not 5e-5 <= abs(value) < 1e7:
        return f"{value:.3g}".replace("-", "−")
    return decimal(value)


def ranges(values: Sequence[int]) -> str:
    """Ascending integers with runs of three and more drawn together, e.g. ``1–12, 15, 30``."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(f"{p[0]}–{p[-1]}" if len(p) > 2 else ", ".join(map(str, p)) for p in parts)


def verbatim(value: object) -> str:
    """A setting exactly as it was resolved, without rounding: it must be possible to type it again."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(verbatim(item) for item in value) + "]"
    return str(value)


def flatten(value: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as dotted names with their verbatim values, sorted by name at each level."""
    rows: list[tuple[str, str]] = []
    for key in sorted(value):
        item = value[key]
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            rows += flatten(item, f"{name}.")
        else:
            rows.append((name, "{}" if isinstance(item, Mapping) else verbatim(item)))
    return rows
