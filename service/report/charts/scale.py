"""From values to positions, and where the ticks stand."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [start, end] (per cent or pixels).

    With `root` the signed square root of the value is mapped: it shows 0.005 beside 0.5 and still knows zero and
    negative values, which a logarithm does not.
    """

    low: float
    high: float
    start: float
    end: float
    root: bool = False

    @classmethod
    def fitting(
        cls,
        values: Iterable[float | None],
        start: float,
        end: float,
        *,
        zero: bool = True,
        root: bool = False,
        pad: float = 0.06,
    ) -> "Scale":
        """The scale that shows all finite values (and 0 if `zero`) with a little air; never of zero width."""
        finite = [v for v in values if v is not None and math.isfinite(v)]
        if zero or not finite:
            finite.append(0.0)
        low, high = (_bend(v, root) for v in (min(finite), max(finite)))
        spread = high - low
        air = pad * spread if spread > 1e-9 else max(0.5 * abs(high), 1e-3)
        # Nothing lies below a zero that is the smallest value: the axis stands there.
        bottom = low if zero and low == 0 and high > 0 else low - air
        top = high if zero and high == 0 and low < 0 else high + air
        return cls(_unbend(bottom, root), _unbend(top, root), start, end, root)

    def __call__(self, value: float) -> float:
        """The position of a value, held within the plot."""
        low, high, at = (_bend(v, self.root) for v in (self.low, self.high, value))
        share = min(1.0, max(0.0, (at - low) / (high - low)))
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        """About `count` round values within the domain."""
        if not self.root:
            step = _round_step((self.high - self.low) / count)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [i * step for i in range(first, last + 1)]
        low, high = _bend(self.low, True), _bend(self.high, True)
        gap = (high - low) / count
        start = math.ceil(low / gap) if low < 0 < high else 0
        anchor = 0.0 if low <= 0 <= high else low
        wanted = (anchor + gap * i for i in range(start, count + 1))
        snapped = sorted({_snap(_unbend(w, True)) for w in wanted})
        kept: list[float] = []
        for value in snapped:
            inside = self.low - 1e-12 <= value <= self.high + 1e-12
            if inside and (not kept or _bend(value, True) - _bend(kept[-1], True) > 0.55 * gap):
                kept.append(value)
        return kept


def tick_label(value: float) -> str:
    """A tick's number with the decimals that it needs, e.g. ``0``, ``0.05``, ``−2``."""
    text = f"{round(abs(value), 10):.10f}".rstrip("0").rstrip(".")
    return f"−{text}" if value < 0 and text != "0" else text


def block_ticks(blocks: int, most: int = 14) -> list[int]:
    """Which block numbers are written under the axis: all of a few, else 1 and round numbers, and the last."""
    if blocks <= most:
        return list(range(1, blocks + 1))
    step = next(s for s in (2, 5, 10, 20, 50, 100, 200, 500) if blocks / s <= most * 0.75 or s == 500)
    inner = [i for i in range(step, blocks, step) if blocks - i > step / 2 and i > 1]
    return [1, *inner, blocks]


def _bend(value: float, root: bool) -> float:
    return math.copysign(math.sqrt(abs(value)), value) if root else value


def _unbend(value: float, root: bool) -> float:
    return math.copysign(value * value, value) if root else value


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * nice for nice in (1, 2, 5, 10) if power * nice >= step * 0.999)


def _snap(value: float) -> float:
    if abs(value) < 1e-12:
        return 0.0
    power = 10.0 ** math.floor(math.log10(abs(value)))
    nearest = min((1, 2, 5, 10), key=lambda nice: abs(math.log(abs(value) / (power * nice))))
    return math.copysign(round(nearest * power, 12), value)
