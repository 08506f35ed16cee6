"""The few lines of SVG that the charts are built from: elements with escaped content, and marks by shape."""

from markupsafe import Markup, escape

Attribute = str | float | int | None

MARKS = {
    "diamond": "M0,-1.3L1.3,0L0,1.3L-1.3,0Z",
    "triangle": "M0,-1.25L1.2,0.95L-1.2,0.95Z",
    "falling": "M0,1.25L1.2,-0.95L-1.2,-0.95Z",
    "square": "M-0.9,-0.9H0.9V0.9H-0.9Z",
    "cross": "M-0.9,-0.9L0.9,0.9M0.9,-0.9L-0.9,0.9",
}
"""Outlines of marks for a radius of 1, of about equal visual weight."""


def tag(name: str, *children: str, **attributes: Attribute) -> Markup:
    """An SVG element; children and values are escaped unless they are Markup, attributes that are None left out.

    Underscores in attribute names become hyphens and a trailing one is dropped (``class_``, ``stroke_width``).
    """
    head = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), number(value))
        for key, value in attributes.items()
        if value is not None
    )
    body = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), head, body)  # noqa: S704 - element names are our own


def number(value: Attribute) -> str:
    """A coordinate with at most two decimals, so that pages stay small and equal on every platform."""
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def percent(value: float) -> str:
    """A horizontal position: per cent of the plot's width."""
    return f"{number(float(value))}%"


def text(
    content: str, x: float, y: float, *, anchor: str = "start", dx: float = 0, class_: str | None = None
) -> Markup:
    """A label at x per cent (moved by dx pixels) and y pixels."""
    return tag("text", content, x=percent(x), y=y, dx=dx or None, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line; x in per cent, y in pixels."""
    return tag("line", x1=percent(x1), y1=y1, x2=percent(x2), y2=y2, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str, *children: str) -> Markup:
    """A rectangle; x and width in per cent, y and height in pixels."""
    return tag("rect", *children, x=percent(x), y=y, width=percent(width), height=height, class_=class_)


def mark(shape: str, x: float, y: float, radius: float, class_: str, title: str | None = None) -> Markup:
    """A mark at x per cent and y pixels: ``circle`` or one of `MARKS`; `title` is its tooltip."""
    tooltip = tag("title", title) if title else Markup("")
    if shape == "circle":
        return tag("circle", tooltip, cx=percent(x), cy=y, r=radius, class_=class_)
    outline = tag("path", tooltip, d=MARKS[shape], transform=f"scale({number(float(radius))})", class_=class_)
    # A path knows no per cent: it is drawn around the origin of a nested viewport that stands where the mark belongs.
    return tag("svg", outline, x=percent(x), y=y, overflow="visible")


def picture(name: str, title: str, description: str, height: float, *content: Markup) -> Markup:
    """The whole chart: an image for assistive technology, with its title and description."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        *content,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        width="100%",
        height=height,
    )
