"""What the bench found, as tables: areas by detector, accusations, and what each kind of damage did."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.damage.cases import FROZEN, SOUND
from bench.damage.judges import DETECTORS, VERDICT, scored
from bench.damage.measure import Row
from bench.damage.scoring import (
    Scored,
    accusations,
    by_cost,
    limit_at,
    naming,
    seeing,
    smallest_found,
    telling,
    top_named,
)

COSTLY = 0.05
"""Nats: the goals are about damages that cost at least so much; cheaper ones are listed apart."""


@dataclass(frozen=True)
class Costed:
    """A row with what its damage costs: against the same model undamaged, on the same text."""

    row: Row
    cost: float | None
    """None for a block that was frozen from the start: there is no undamaged model."""


def costed(rows: Sequence[Row]) -> list[Costed]:
    """Put the costs to the rows."""
    base = {(r["subject"], r["text"]): r["loss"] for r in rows if r["kind"] == SOUND}
    return [Costed(r, None if r["kind"] == FROZEN else r["loss"] - base[r["subject"], r["text"]]) for r in rows]


def show(rows: Sequence[Row], console: Console) -> None:
    """Print all tables: by who tuned and who reports, and by text."""
    for role in dict.fromkeys(r["role"] for r in rows):
        for text in dict.fromkeys(r["text"] for r in rows):
            chosen = costed([r for r in rows if r["role"] == role and r["text"] == text])
            if chosen:
                console.print(f"\n[bold]{role}, {text} text[/bold]")
                console.print(detector_table(chosen))
                console.print(kind_table(chosen))


def detector_table(rows: Sequence[Costed]) -> Table:
    """One line a detector: the areas for costly damages, then for cheap ones."""
    table = Table(
        "detector", "naming", "telling", "first named", "seeing", "naming, cheap", "smallest found", "wrong, sound",
        "wrong, others",
    )  # fmt: skip
    for name in DETECTORS:
        copies = [scored(c.row, c.cost, name) for c in rows]
        if any(math.isfinite(x) for copy in copies for x in copy.suspicions):  # what was not measured has no figures
            table.add_row(name, *_figures(name, copies))
    return table


def _figures(name: str, copies: Sequence[Scored]) -> list[str]:
    costly = [*by_cost(copies, COSTLY, math.inf), *(c for c in copies if c.damaged and c.cost is None)]
    cheap = by_cost(copies, -math.inf, COSTLY)
    sound = [c for c in copies if c.sound]
    limit = limit_at(sound)

    def found(copy: Scored) -> bool:
        if name == VERDICT:
            return bool(copy.accused & copy.damaged)
        return any(copy.suspicions[at] > limit for at in copy.damaged)

    smallest = smallest_found(copies, found)
    figures = [naming(costly), telling(costly, copies), top_named(costly), seeing(costly, sound), naming(cheap)]
    counted = accusations(copies)
    wrong = ["", ""]
    if name == VERDICT:
        wrong = [f"{counted.wrong_sound} of {counted.sound}", f"{counted.wrong_others} of {counted.others}"]
    return [*(f"{x:.3f}" for x in figures), "" if smallest is None else f"{smallest:.3f}", *wrong]


def kind_table(rows: Sequence[Costed]) -> Table:
    """One line a kind of damage: what it costs, how often the verdict accused the block, and who else it accused."""
    table = Table("kind", "copies", "cost in nats", "blocks accused", "rank of the block", "others accused")
    for kind in dict.fromkeys(c.row["kind"] for c in rows):
        copies = [scored(c.row, c.cost, VERDICT) for c in rows if c.row["kind"] == kind]
        counted = accusations(copies)
        costs = [c.cost for c in copies if c.cost is not None]
        span = f"{min(costs):.3f} to {max(costs):.3f}" if costs else "not known"
        wrong, healthy = counted.wrong_sound + counted.wrong_others, counted.sound + counted.others
        found = f"{counted.found} of {counted.damaged}" if counted.damaged else ""
        table.add_row(kind, str(len(copies)), span, found, _ranks(copies), f"{wrong} of {healthy}")
    return table


def _ranks(copies: Sequence[Scored]) -> str:
    """Where the damaged blocks stand among the blocks of their copy, 1 being the most suspect."""
    ranks = [1 + sum(s > c.suspicions[at] for s in c.suspicions) for c in copies for at in sorted(c.damaged)]
    return " ".join(map(str, ranks))
