"""How well a number tells damaged blocks from others: areas under the curve, false accusations, smallest damage found.

A detector gives every block of a copy a number, larger for what is more suspect, from that copy's own evidence alone.
*Naming* compares a damaged block with the undamaged ones of the same copy. *Telling* compares it with every undamaged
block of every model, sound ones included: one limit for all. *Seeing* compares whole copies by their most suspect
block, damaged copies with sound models.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Suspicions = Sequence[float]
"""One number a block, larger for what is more suspect."""


@dataclass(frozen=True)
class Scored:
    """A copy as one detector sees it."""

    suspicions: Suspicions
    damaged: frozenset[int]
    """Positions (0..K−1); empty for a sound model."""
    cost: float | None
    """Of the damage on check, in nats; None where it is not known."""
    accused: frozenset[int] = frozenset()
    """Positions, for a detector that accuses."""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.damaged

    def split(self) -> tuple[list[float], list[float]]:
        """Suspicions of the damaged blocks and of the others."""
        bad = [s for at, s in enumerate(self.suspicions) if at in self.damaged]
        return bad, [s for at, s in enumerate(self.suspicions) if at not in self.damaged]


def area(positive: Iterable[float], negative: Iterable[float]) -> float:
    """Area under the ROC curve: the chance that a positive one is larger than a negative one, ties counting half.

    NaN where either is empty. By ranks (Mann and Whitney 1947); NaN among the numbers counts as least suspect.
    """
    one, other = (np.nan_to_num(np.array(list(v), np.float64), nan=-np.inf) for v in (positive, negative))
    if not len(one) or not len(other):
        return math.nan
    ordered = np.sort(other)
    below = np.searchsorted(ordered, one, side="left")
    upto = np.searchsorted(ordered, one, side="right")
    return float((below + upto).sum() / (2 * len(one) * len(other)))


def naming(copies: Iterable[Scored]) -> float:
    """Mean over damaged copies of the area within the copy."""
    areas = [area(*c.split()) for c in copies if not c.sound and len(c.damaged) < len(c.suspicions)]
    return float(np.mean(areas)) if areas else math.nan


def telling(damaged: Sequence[Scored], every: Sequence[Scored]) -> float:
    """Area between the damaged blocks of `damaged` and the undamaged blocks of `every` copy."""
    bad = [s for c in damaged for s in c.split()[0]]
    return area(bad, [s for c in every for s in c.split()[1]])


def seeing(damaged: Sequence[Scored], sound: Sequence[Scored]) -> float:
    """Area between damaged copies and sound models by their most suspect blocks."""
    return area(*([_most(c.suspicions) for c in copies] for copies in (damaged, sound)))


def _most(suspicions: Suspicions) -> float:
    return max((s for s in suspicions if not math.isnan(s)), default=-math.inf)


def top_named(copies: Sequence[Scored]) -> float:
    """Share of damaged copies whose most suspect block is a damaged one.

    Blocks that are most suspect together share the name: a detector that tells nothing gets what chance would. NaN
    counts as least suspect.
    """
    hits = [_share_named(c) for c in copies if not c.sound]
    return float(np.mean(hits)) if hits else math.nan


def _share_named(copy: Scored) -> float:
    suspicions = np.nan_to_num(np.array(copy.suspicions, np.float64), nan=-np.inf)
    top = np.flatnonzero(suspicions == suspicions.max())
    return float(np.isin(top, list(copy.damaged)).mean())


@dataclass(frozen=True)
class Accusations:
    """What a detector that accuses did."""

    found: int
    """Damaged blocks that it accused …"""
    damaged: int
    """… of so many."""
    wrong_sound: int
    """Blocks of sound models that it accused …"""
    sound: int
    """… of so many."""
    wrong_others: int
    """Undamaged blocks of damaged copies that it accused …"""
    others: int
    """… of so many: neighbours of a damage compensate for it, and are off their optimum themselves."""


def accusations(copies: Iterable[Scored]) -> Accusations:
    """Count them."""
    found = damaged = wrong_sound = sound = wrong_others = others = 0
    for copy in copies:
        wrong, healthy = len(copy.accused - copy.damaged), len(copy.suspicions) - len(copy.damaged)
        found += len(copy.accused & copy.damaged)
        damaged += len(copy.damaged)
        if copy.sound:
            wrong_sound, sound = wrong_sound + wrong, sound + healthy
        else:
            wrong_others, others = wrong_others + wrong, others + healthy
    return Accusations(found, damaged, wrong_sound, sound, wrong_others, others)


def limit_at(sound: Iterable[Scored], share: float = 0.05) -> float:
    """The suspicion that at most this share of the blocks of sound models exceed."""
    values = np.sort([s for c in sound if c.sound for s in c.suspicions])
    return float(values[len(values) - 1 - int(share * len(values))]) if len(values) else math.inf


def smallest_found(copies: Iterable[Scored], found: Callable[[Scored], bool]) -> float | None:
    """The cost of the cheapest damage that was found; None where none was."""
    costs = [c.cost for c in copies if c.damaged and c.cost is not None and c.cost > 0 and found(c)]
    return min(costs, default=None)


def by_cost(copies: Iterable[Scored], low: float, high: float) -> list[Scored]:
    """Damaged copies whose damage costs at least `low` and less than `high` nats."""
    return [c for c in copies if c.damaged and c.cost is not None and low <= c.cost < high]
