"""What rounding the blocks of a model in full precision would cost (`what_if`): references and measurements. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from peelbound.service.check_size import CheckSize
from peelbound.service.controller.block_measurements import CHECK, FIT, SELECT, Sums
from peelbound.service.plan import mix_sizes
from peelbound.service.schemas.report import RoundedBlock, RoundedMix, WhatIfReport
from peelbound.service.statistics import PairedSums, paired_intervals
from peelbound.service.what_if import what_if_sentences
from peelbound.workers.tasks import Reference


def alone(scheme: str, block: int) -> Reference:
    """The trained network with this block rounded."""
    return Reference(f"block {block} as {scheme}", block, block, rounded_to=scheme, rounds=(block,))


def re_solved(scheme: str, block: int, solution: str) -> Reference:
    """The trained network with this block rounded and then re-solved in its class."""
    return Reference(f"block {block} re-solved as {scheme}", block, block, solution=solution, rounded_to=scheme)


def mixes(scheme: str, order: Sequence[int]) -> list[Reference]:
    """The network with all blocks rounded but the first few of `order`, for a few such numbers."""
    found = []
    for kept in mix_sizes(len(order)):
        rounds = tuple(sorted(order[kept:]))
        found.append(Reference(f"{scheme} but for {kept}", rounds[0], rounds[0], rounded_to=scheme, rounds=rounds))
    return found


def dearest_first(scheme: str, blocks: Sequence[int], select: Mapping[str, Sums]) -> tuple[int, ...]:
    """Blocks by what rounding each alone costs on select, the dearest first; of equals the earlier."""
    return tuple(sorted(blocks, key=lambda block: -select[alone(scheme, block).name].sum()))


@dataclass(frozen=True)
class RoundingMeasurements:
    """Loss sums of a network whose blocks are rounded, singly and together, and what the walk back foretold.

    Attributes:
        scheme: the weight class.
        products: Σ⟨g[l], Δ⟩ of every sequence of fit, by block: [K][N], Δ what rounding block l changes in its output.
        order: blocks by their cost on select, the dearest first.
        tokens: with a loss, per document, by split.
        select: loss sums per document by name.
        check: the same.
    """

    scheme: str
    products: Sequence[Sequence[float]]
    order: tuple[int, ...]
    tokens: Mapping[str, Sums]
    select: Mapping[str, Sums]
    check: Mapping[str, Sums]

    @property
    def blocks(self) -> range:
        """1..K."""
        return range(1, len(self.order) + 1)

    def first_order(self, block: int) -> float:
        """Σ⟨g, Δ⟩ on fit, in nats per token."""
        return float(np.sum(self.products[block - 1]) / self.tokens[FIT].sum())

    def second_order(self, block: int) -> float:
        """½ Σ over sequences of ⟨g, Δ⟩², on fit, in nats per token.

        The quadratic form of the Hessian by the empirical Fisher information of a sequence's loss in h[l] (Martens
        2020, arXiv 1412.1193, section 11; as in Optimal Brain Surgeon's use for rounding). Squares are of whole
        sequences, whose tokens' gradients go together.
        """
        return float(0.5 * np.square(self.products[block - 1]).sum() / self.tokens[FIT].sum())

    def costs(self) -> PairedSums:
        """CE(with one block rounded) − CE(trained), by block, on check."""
        return self._over_trained(self.check, [alone(self.scheme, block).name for block in self.blocks], CHECK)

    def select_costs(self) -> list[float]:
        """The same on select."""
        names = [alone(self.scheme, block).name for block in self.blocks]
        return [float(cost) for cost in self._over_trained(self.select, names, SELECT).estimates()]

    def recoveries(self) -> PairedSums:
        """CE(with one block rounded) − CE(the same re-solved), by block, on check; zero where select saw no gain."""
        rows = []
        for block in self.blocks:
            rounded, solved = alone(self.scheme, block).name, re_solved(self.scheme, block, "").name
            chosen = solved if self.select[solved].sum() < self.select[rounded].sum() else rounded
            rows.append(self.check[rounded] - self.check[chosen])
        return PairedSums(np.stack(rows, axis=1), self.tokens[CHECK])

    def mixes(self) -> tuple[list[tuple[int, ...]], PairedSums]:
        """Blocks kept in full precision, and CE(all others rounded) − CE(trained) on check, mix by mix."""
        kept = [tuple(sorted(self.order[:size])) for size in mix_sizes(len(self.order))]
        return kept, self._over_trained(self.check, [m.name for m in mixes(self.scheme, self.order)], CHECK)

    def _over_trained(self, split: Mapping[str, Sums], names: Sequence[str], name: str) -> PairedSums:
        return PairedSums(np.stack([split[n] - split["trained"] for n in names], axis=1), self.tokens[name])


def what_if_report(
    rounding: RoundingMeasurements,
    *,
    tolerance: float,
    level: float,
    check: CheckSize,
    seed_of: Callable[[str], int],
) -> WhatIfReport:
    """The section of the report.

    Args:
        rounding: what was measured.
        tolerance: the cost, in nats, that matters to the user.
        level: of the intervals.
        check: with too few documents no mix is said to be enough.
        seed_of: seeds of the bootstrap by name.
    """
    costs = paired_intervals(rounding.costs(), level=level, seed=seed_of("rounded blocks")).intervals
    recovered = paired_intervals(rounding.recoveries(), level=level, seed=seed_of("rounded and re-solved")).intervals
    blocks = [
        RoundedBlock(
            index=index,
            first_order=rounding.first_order(index),
            predicted_cost=rounding.first_order(index) + rounding.second_order(index),
            select_cost=select,
            cost=cost,
            recovered=back,
        )
        for index, select, cost, back in zip(rounding.blocks, rounding.select_costs(), costs, recovered, strict=True)
    ]
    kept, sums = rounding.mixes()
    together = paired_intervals(sums, level=level, seed=seed_of("rounded mixes")).intervals
    mixes_ = [RoundedMix(kept=list(k), cost=cost) for k, cost in zip(kept, together, strict=True)]
    within = (i for i, mix in enumerate(mixes_) if mix.cost.high <= tolerance)
    enough = next(within, None) if check.tests else None
    agreement = _rank_agreement([b.predicted_cost for b in blocks], [b.cost.estimate for b in blocks])
    report = WhatIfReport(
        scheme=rounding.scheme, blocks=blocks, mixes=mixes_, enough=enough, rank_agreement=agreement, sentences=[]
    )
    return report.model_copy(update={"sentences": what_if_sentences(report, tolerance, level, check)})


def _rank_agreement(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Spearman's correlation, to six digits; None where one of them has no order."""
    if len(predicted) < 3 or len(set(predicted)) == 1 or len(set(measured)) == 1:
        return None
    return round(float(spearmanr(predicted, measured).statistic), 6)
