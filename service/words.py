"""Sentences that carry their numbers' sources: what a verdict prints is what the report holds, by construction.

A `Phrase` is text with the citations of the values printed in it. Phrases are made from one value of the report
(`nats`, `count`, …) and put together by `compose`; there is no other way to get a number into a sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peelbound.service.schemas.report import Citation, Interval, Sentence

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Phrase:
    """Text, and the values in the report that it rests on."""

    text: str
    cites: tuple[Citation, ...] = ()

    def sentence(self) -> Sentence:
        """As it stands in the report; each path is cited once."""
        return Sentence(text=self.text, cites=list({cite.path: cite for cite in self.cites}.values()))


def compose(template: str, *phrases: Phrase, because: Sequence[Phrase] = ()) -> Phrase:
    """Put phrases into the `{}` of a template. `because` is cited without being printed."""
    cites = tuple(cite for phrase in (*phrases, *because) for cite in phrase.cites)
    return Phrase(template.format(*(phrase.text for phrase in phrases)), cites)


def enumerated(phrases: Sequence[Phrase]) -> Phrase:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = phrases
    if not first:
        return last
    return compose(", ".join(["{}"] * len(first)) + " and {}", *phrases)


def nats_text(value: float) -> str:
    """Losses and differences of losses: three digits from 0.1 up, four below, an exponent where those show nothing."""
    if value == 0:
        return "0.000"
    if abs(value) < 0.00005:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.4f}"


def share_text(value: float) -> str:
    """Similarities and shares: three digits from 0.1 up, four below."""
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.4f}"


def z_text(value: float) -> str:
    """z-values, signed, one digit after the point."""
    return f"{value:+.1f}"


def tenths_text(value: float) -> str:
    """Sizes of z-values, one digit after the point."""
    return f"{value:.1f}"


def percent_text(value: float) -> str:
    """A share of 1 in per cent, without the sign."""
    return f"{100 * value:.0f}"


def nats(path: str, value: float) -> Phrase:
    """A loss or a difference of losses."""
    return _printed(path, value, nats_text(value))


def share(path: str, value: float) -> Phrase:
    """A similarity or another number between 0 and 1."""
    return _printed(path, value, share_text(value))


def z_value(path: str, value: float) -> Phrase:
    """A z-value."""
    return _printed(path, value, z_text(value))


def tenths(path: str, value: float) -> Phrase:
    """The size of a z-value."""
    return _printed(path, value, tenths_text(value))


def percent(path: str, value: float) -> Phrase:
    """A share in per cent, without the sign."""
    return _printed(path, value, percent_text(value))


def share_in_percent(path: str, value: float) -> Phrase:
    """A small share in per cent, two digits after the point, without the sign."""
    return _printed(path, value, f"{100 * value:.2f}")


def plain(path: str, value: Value) -> Phrase:
    """A count or a name, as it is."""
    return _printed(path, value, str(value))


def interval(path: str, value: Interval, level: Phrase) -> Phrase:
    """`(95% interval -0.001 to 0.002)`; says so where it covers jointly with its family.

    Where nothing varied there is none: a single document shows no variation, and what is left as it is has none.
    """
    if value.low == value.high:
        return Phrase("(without an interval)")
    kind = "simultaneous " if value.simultaneous else ""
    low, high = nats(f"{path}/low", value.low), nats(f"{path}/high", value.high)
    return compose(f"({kind}{{}}% interval {{}} to {{}})", level, low, high)


def _printed(path: str, value: Value, text: str) -> Phrase:
    return Phrase(text, (Citation(path=path, value=value),))
