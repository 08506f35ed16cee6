"""The detectors: each turns a row's numbers into one suspicion a block, from that copy's own evidence alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from bench.damage.evidence import evidence_of
from bench.damage.measure import Row
from bench.damage.scoring import Scored, Suspicions
from peelbound.service.evidence import Thresholds
from peelbound.service.findings import judge_blocks
from peelbound.service.schemas.report import BlockFinding

Block = Mapping[str, Any]
Detector = Callable[[Sequence[Block]], Suspicions]
"""Larger is more suspect."""


def against_others(values: Sequence[float]) -> list[float]:
    """Each value minus the median of the other blocks' values."""
    return [v - median(x for at, x in enumerate(values) if at != own) for own, v in enumerate(values)]


def _low_influence(blocks: Sequence[Block]) -> Suspicions:
    return against_others([-math.log(max(b["influence"], 1e-12)) for b in blocks])


def _low_skip_cost(blocks: Sequence[Block]) -> Suspicions:
    return [-b["skip"]["estimate"] if b["skip"] else -math.inf for b in blocks]


def _scale(*names: str) -> Detector:
    """Largest |z| of the named scores, as a multiple of the other blocks' median."""

    def suspicions(blocks: Sequence[Block]) -> Suspicions:
        sizes = [max(abs(b["scores"][n]["z"]) for n in names) for b in blocks]
        return [math.log(max(s, 1e-3) / max(median(_without(sizes, at)), 1e-3)) for at, s in enumerate(sizes)]

    return suspicions


def _heads_and_norms(blocks: Sequence[Block]) -> Suspicions:
    """The same over single heads and every leaf module: norm gains, projections."""
    sizes = [max(abs(s["z"]) for n, s in b["scores"].items() if n not in ("attention", "mlp", "block")) for b in blocks]
    return [math.log(max(s, 1e-3) / max(median(_without(sizes, at)), 1e-3)) for at, s in enumerate(sizes)]


def _without(values: Sequence[float], own: int) -> list[float]:
    return [v for at, v in enumerate(values) if at != own]


def _random_spectrum(blocks: Sequence[Block]) -> Suspicions:
    return against_others([-math.log(max(b["spectrum"]["departure"], 1.0)) for b in blocks])


def _alpha(blocks: Sequence[Block]) -> Suspicions:
    return against_others([b["alpha"] for b in blocks])


def _agreement(blocks: Sequence[Block]) -> Suspicions:
    return against_others([b["agreement"] for b in blocks])


def _gain(blocks: Sequence[Block]) -> Suspicions:
    """Against the others': on foreign data all blocks gain."""
    return against_others([b["gain"]["estimate"] if "gain" in b else math.nan for b in blocks])


def _residual(blocks: Sequence[Block]) -> Suspicions:
    """How far from the others', either way: noise is hard to imitate, a block that does nothing is easy."""
    sizes = [math.log(max(b.get("residual", math.nan), 1e-12)) for b in blocks]
    return [abs(away) for away in against_others(sizes)]


def _verdict(blocks: Sequence[Block]) -> Suspicions:
    documents = Thresholds().check_documents
    return [j.suspicion for j in judge_blocks(evidence_of(blocks), documents, Thresholds())]


VERDICT = "verdict"
DETECTORS: dict[str, Detector] = {
    "verdict": _verdict,
    "scale score, attention or MLP": _scale("attention", "mlp"),
    "scale score, whole block": _scale("block"),
    "scale score, heads and norms": _heads_and_norms,
    "block influence (ShortGPT), low": _low_influence,
    "skip cost, low": _low_skip_cost,
    "gradient agreement, high": _agreement,
    "gain of the block reference, high": _gain,
    "residual of a fresh block, unlike": _residual,
    "spectrum, random": _random_spectrum,
    "alpha (WeightWatcher), high": _alpha,
}


def scored(row: Row, cost: float | None, name: str) -> Scored:
    """A row as a detector sees it."""
    blocks = row["blocks"]
    accused: frozenset[int] = frozenset()
    if name == VERDICT:
        found = judge_blocks(evidence_of(blocks), row["documents"], Thresholds())
        accused = frozenset(at for at, j in enumerate(found) if j.finding is not BlockFinding.SOUND)
    return Scored(DETECTORS[name](blocks), frozenset(b - 1 for b in row["damaged"]), cost, accused)
