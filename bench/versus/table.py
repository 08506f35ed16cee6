"""From what the competitors wrote to one table."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.versus.measure import Cost


@dataclass(frozen=True)
class Row:
    """One tool on one model."""

    tool: str
    model: str
    damaged: int | None
    """The block that is damaged in truth; None: a sound model."""
    cost: Cost | None
    found: dict[str, Any] | None
    error: str | None

    @property
    def named(self) -> str:
        """Whether the damaged block was named: by the tool's own rule, or merely by standing out in its figures."""
        if self.found is None:
            return "–"
        if self.damaged is None:
            return "nothing to name"
        accused = self.found["accused"]
        if accused is not None:
            return "yes" if self.damaged in accused else "**no**"
        if not self.found["score"]:
            return "names no block"
        place = suspicion(self.found).index(self.damaged) + 1
        return f"no rule; it ranks {place} of {len(self.found['score'])}"

    @property
    def others(self) -> str:
        """Sound blocks that were accused."""
        if self.found is None or self.found["accused"] is None:
            return "–"
        others = [block for block in self.found["accused"] if block != self.damaged]
        return ", ".join(map(str, others)) or "none"


def suspicion(found: dict[str, Any]) -> list[int]:
    """Blocks by score, the most suspicious first."""
    sign = -1 if found["suspicious"] == "high" else 1
    return [int(block) for block, _ in sorted(found["score"].items(), key=lambda item: sign * item[1])]


def parse(path: Path) -> dict[str, Any]:
    """What a competitor wrote.

    Raises:
        ValueError: it is not what a competitor should write.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    missing = {"seconds", "score", "score_means", "suspicious", "accused", "rule", "details"} - found.keys()
    if missing:
        raise ValueError(f"{path.name} lacks {', '.join(sorted(missing))}")
    if found["suspicious"] not in ("high", "low"):
        raise ValueError(f"{path.name}: suspicious is {found['suspicious']!r}, neither high nor low")
    found["score"] = {int(block): float(value) for block, value in found["score"].items()}
    return dict(found)


def markdown(rows: list[Row]) -> str:
    """The table, as bench/README.md shows it."""
    lines = [
        "| tool | model | seconds | at work | peak RSS (PSS), MB | damaged block named | accused besides |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        model = row.model if row.damaged is None else f"{row.model} (block {row.damaged})"
        if row.cost is None or row.found is None:
            lines.append(f"| {row.tool} | {model} | – | – | – | failed: {row.error} | – |")
            continue
        memory = f"{row.cost.peak_rss / 1e6:.0f} ({row.cost.peak_pss / 1e6:.0f})"
        seconds = f"{row.cost.seconds:.1f} | {row.found['seconds']:.1f}"
        lines.append(f"| {row.tool} | {model} | {seconds} | {memory} | {row.named} | {row.others} |")
    return "\n".join(lines)
