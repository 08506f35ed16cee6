"""What a citation's path means to a reader: a name, its value, and the section of the page that holds it."""

from collections.abc import Sequence
from dataclasses import dataclass

from peelbound.service.report import numbers
from peelbound.service.schemas.report import Citation, Report

_SECTIONS = {
    "trained": "losses",
    "head_control": "losses",
    "networks": "losses",
    "bound": "losses",
    "blocks": "blocks",
    "matrix": "matrix",
    "positive_control": "control",
    "what_if": "what-if",
    "low_bit": "low-bit",
    "baseline": "baseline",
    "calibration": "settings",
    "checkpoint": "settings",
}

_LEAVES = {"estimate": "", "low": "low end", "high": "high end", "z": "z"}
_UNSPOKEN = {"verdict", "summary", "splits", "what_if", "low_bit"}
_NAMES = {"index", "block", "blocks", "best_block", "named_block", "kept"}
"""Integers that name something instead of measuring it."""
_CHOSEN = {"settings", "request"}
"""Parts of the report that were chosen, not measured."""

_WITH_BLOCKS = ("what_if", "low_bit", "baseline")
"""Sections with a list of all blocks of their own."""

MOST = 8
"""References drawn under one sentence; more would bury it."""


@dataclass(frozen=True)
class Reference:
    """A citation as drawn."""

    name: str
    value: str
    path: str
    section: str | None
    """The id of the section that shows it, or None."""


def references(report: Report, citations: Sequence[Citation]) -> list[Reference]:
    """Name the measurements that a sentence cites; an estimate and the two ends of its interval become one.

    ``/blocks/2/gain/estimate``, ``…/low`` and ``…/high`` become ``block 3, gain  0.0071 [0.0052, 0.0090]``. What is no
    measurement (names, thresholds, yes and no) the sentence says itself; report.json holds every citation.
    """
    citations = [citation for citation in citations if _is_measured(citation)]
    by_path = {citation.path: citation.value for citation in citations}
    whole = {p.removesuffix("/estimate") for p in by_path if p.endswith("/estimate")}
    whole = {base for base in whole if f"{base}/low" in by_path and f"{base}/high" in by_path}
    drawn = []
    for citation in citations:
        base, _, leaf = citation.path.rpartition("/")
        if base in whole and leaf in ("low", "high"):
            continue
        value = _value(leaf, citation.value)
        if base in whole and leaf == "estimate":
            value = f"{value} [{numbers.scalar(by_path[f'{base}/low'])}, {numbers.scalar(by_path[f'{base}/high'])}]"
        drawn.append(_reference(report, citation.path, value))
    return drawn[:MOST]


def _is_measured(citation: Citation) -> bool:
    parts = citation.path.strip("/").split("/")
    if parts[0] in _CHOSEN or isinstance(citation.value, bool):
        return False
    named = _NAMES & {parts[-1], parts[-2] if len(parts) > 1 and parts[-1].isdigit() else ""}
    return isinstance(citation.value, float) or (isinstance(citation.value, int) and not named)


def _value(leaf: str, value: float | int | str | bool | None) -> str:
    """A citation's value; z-values and their limits have one decimal, as everywhere on the page."""
    if leaf in ("z", "scale_limit", "half_limit") and isinstance(value, float):
        return numbers.decimal(value, 1, sign=leaf == "z")
    return numbers.scalar(value)


def _reference(report: Report, path: str, value: str) -> Reference:
    parts = [part for part in path.split("/") if part]
    section = _SECTIONS.get(parts[0]) if parts else None
    return Reference(", ".join(_words(report, parts)) or "value", value, path, section)


def _words(report: Report, parts: list[str]) -> list[str]:
    head, rest = _item(report, parts)
    words = [head, *(_LEAVES.get(part, part.replace("_", " ")) for part in rest if part not in _UNSPOKEN)]
    return [word for word in words if word]


def _item(report: Report, parts: list[str]) -> tuple[str, list[str]]:
    """A list's item by its own name: pointers count from 0 where blocks count from 1."""
    if len(parts) >= 3 and parts[0] in _WITH_BLOCKS and parts[2].isascii() and parts[2].isdigit():
        index, rest = int(parts[2]), parts[3:]
        if parts[1] == "blocks" and index < len(report.blocks):
            return f"block {report.blocks[index].index}", rest
        if parts[1] == "mixes" and report.what_if is not None and index < len(report.what_if.mixes):
            kept = numbers.ranges(report.what_if.mixes[index].kept)
            return f"all blocks but {kept}" if kept else "all blocks", rest
    if len(parts) >= 2 and parts[1].isascii() and parts[1].isdigit():
        index, rest = int(parts[1]), parts[2:]
        if parts[0] == "blocks" and index < len(report.blocks):
            return f"block {report.blocks[index].index}", rest
        if parts[0] == "networks" and index < len(report.networks):
            return report.networks[index].name, rest
        if parts[0] == "matrix" and index < len(report.matrix):
            return f"h{report.matrix[index].source} → h{report.matrix[index].target}", rest
    return "", parts
