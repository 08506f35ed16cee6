"""How wide labels get, at most: a page loads no font, so nobody knows which one a reader has.

Widths are those of DejaVu Sans, the widest of the fonts that systems fall back on (Arial and its like are a tenth
narrower). What does not touch by them touches nowhere.
"""

from collections.abc import Iterable, Sequence

PAGE = 328.0
"""Pixels across the text of the narrowest page that is provided for: 360 less its margins."""

_ADVANCES = {
    character: width
    for characters, width in (
        ("'ijl", 0.28),
        ("IJ", 0.3),
        (" ,.·’", 0.32),
        ("/:;\\|", 0.34),
        ("f", 0.36),
        ("-", 0.38),
        ("()[]t", 0.4),
        ("!r", 0.42),
        ('"', 0.46),
        ("*_`–", 0.5),
        ("?sz", 0.54),
        ("Lc", 0.56),
        ("Fk", 0.58),
        ("vxy", 0.6),
        ("PTYaeo", 0.62),
        ("$0123456789ESbdghnpqu{}ρ", 0.64),
        ("K", 0.66),
        ("ABCRVXZ", 0.7),
        ("U", 0.74),
        ("HN", 0.76),
        ("&DG◆", 0.78),
        ("OQ", 0.8),
        ("w", 0.82),
        ("#+<=>^~−→", 0.84),
        ("M●", 0.88),
        ("%", 0.96),
        ("m", 0.98),
    )
    for character in characters
}
"""In ems, rounded up; a character that is not here is taken for a whole em."""
_BOLD = 1.15
"""How much wider bold words are (1.11 to 1.14 was seen of the charts' own)."""


def width(text: str, size: float = 12.0, *, bold: bool = False) -> float:
    """Pixels that a text takes at most, at a font size in pixels."""
    return sum(_ADVANCES.get(character, 1.0) for character in text) * size * (_BOLD if bold else 1.0)


def shortened(text: str, room: float, size: float = 12.0) -> str:
    """The text, or as much of its beginning as fits into `room` pixels with an ellipsis behind it."""
    if width(text, size) <= room:
        return text
    kept = text
    while kept and width(f"{kept}…", size) > room:
        kept = kept[:-1]
    return f"{kept}…"


Extent = tuple[float, float]
"""Where a label begins and ends, in pixels."""


def extent(text: str, at: float, anchor: str, size: float = 12.0, *, bold: bool = False) -> Extent:
    """Of a label that is drawn at `at` pixels with SVG's anchor `start`, `middle` or `end`."""
    wide = width(text, size, bold=bold)
    left = at - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    return left, left + wide


def apart(extents: Sequence[Extent], order: Iterable[int], gap: float = 5.0) -> set[int]:
    """Which labels to draw so that none touches another: in `order` of importance, each that still has room."""
    kept: set[int] = set()
    for i in order:
        left, right = extents[i]
        if all(right + gap <= extents[j][0] or extents[j][1] + gap <= left for j in kept):
            kept.add(i)
    return kept
