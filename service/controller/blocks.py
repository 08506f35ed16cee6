"""Block references and the evidence on every block: four walks, and the peel problems between them.

The walk forward leaves the trained states; the walk back gives the gradients, scale products and, block by block, the
corrected problems; the walk on select chooses each block's step; the walk on check measures what was chosen, once.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from peelbound.service.controller.baseline import Baseline
from peelbound.service.controller.block_measurements import (
    ZERO_STEP,
    BlockMeasurements,
    Sums,
    Trained,
    choose,
    free_name,
    skip_name,
)
from peelbound.service.controller.measurements import Measurements
from peelbound.service.controller.members import Ref
from peelbound.service.controller.meter import Meter
from peelbound.service.controller.pool import Pool
from peelbound.service.controller.rounding import RoundingMeasurements, alone, dearest_first, mixes, re_solved
from peelbound.service.controller.subject import CHECK, FIT, SELECT, Audited, Data, Shard
from peelbound.service.controller.walks import SUBLAYERS, Rows, ScaleProducts, TrainedWalk, Walker, whole
from peelbound.service.schemas.report import SpectrumReport
from peelbound.workers.recipes import CorrectedSettings
from peelbound.workers.tasks import CorrectedProblem, Damage, Done, Reference, TrainedBlock


class BlockAudit:
    """The block references of one network: the audited one, or the copy with the planted damage."""

    def __init__(
        self,
        audited: Audited,
        data: Data,
        pool: Pool,
        measurements: Measurements,
        meter: Meter,
        settings: Sequence[CorrectedSettings],
        *,
        keep: frozenset[str],
        middles: bool = False,
        first: list[TrainedWalk] | None = None,
        damage: Damage | None = None,
        free: CorrectedSettings | None = None,
        what_if: CorrectedSettings | None = None,
        baseline: Baseline | None = None,
    ) -> None:
        """Bind to a network.

        Args:
            audited: the checkpoint on the pool.
            data: the calibration set.
            pool: the actors.
            measurements: where results lie.
            meter: the progress.
            settings: the candidates, by ρ.
            keep: splits whose trained states others will need.
            middles: whether others will need the trained states inside the blocks.
            first: holds the walk forward where it was made already; it is taken out, so that nobody else keeps it.
            damage: planted in one block, or None.
            free: how each block of a low-bit network is solved once more in full precision, or None.
            what_if: how each block of a full-precision network, rounded to a weight class, is re-solved in it, or None.
            baseline: the checkpoint before quantisation, whose blocks are put in on check, or None.
        """
        self.audited, self.data, self.pool, self.meter = audited, data, pool, meter
        self.measurements, self.settings, self.damage = measurements, list(settings), damage
        self.free, self.what_if = free, what_if
        self._keep, self._middles = keep | {FIT, CHECK}, middles
        self._planted = None if damage is None else asdict(damage)
        self.baseline = baseline
        self._walker = Walker(audited, data, pool, meter, damage, None if baseline is None else baseline.audited)
        self._walk = first.pop() if first else None

    def walk(self) -> TrainedWalk:
        """The walk forward, once; its states stay until `forget`."""
        if self._walk is None:
            self.meter.phase("trained_states")
            self._walk = self._walker.trained(self._keep, middles=self._middles)
        return self._walk

    def forget(self) -> None:
        """Drop the trained states."""
        self._walk = None

    def damaged(self, damage: Damage, settings: Sequence[CorrectedSettings]) -> "BlockAudit":
        """The audit of a copy of this network that carries a known damage."""
        keep = frozenset[str]()
        return BlockAudit(
            self.audited, self.data, self.pool, self.measurements, self.meter, settings, keep=keep, damage=damage
        )

    def trained(self) -> Trained:
        """Losses, influence and weights of the network as it was trained."""

        def measure() -> dict[str, Any]:
            walk = self.walk()
            return {
                "losses": {name: self.data.loss_sums(name, rows).tolist() for name, rows in walk.losses.items()},
                "influence": walk.influence,
                "select_influence": walk.select_influence,
                "weights": walk.weights,
            }

        found = self.measurements.measured("trained", {"damage": self._planted}, measure)
        return Trained(
            {name: np.array(rows) for name, rows in found["losses"].items()},
            {name: self.data.tokens(name) for name in self.data.splits},
            found["influence"],
            found["select_influence"],
            [w["weight_norm"] for w in found["weights"]],
            [SpectrumReport(**w["spectrum"]) for w in found["weights"]],
        )

    def problem(self, index: int, settings: CorrectedSettings) -> CorrectedProblem:
        """The corrected problem of a block."""
        key = self.measurements.key(
            "corrected", {"block": index, "settings": asdict(settings), "damage": self._planted}
        )
        return CorrectedProblem(key, TrainedBlock(index, self.damage), settings)

    def solve(self) -> tuple[dict[str, list[Sums | None]], dict[tuple[int, float], dict[str, Any]]]:
        """Walk back: solve every corrected problem that is not solved, and measure the scale products.

        Returns:
            Scale products per document of fit and check, by sub-layer and block; what is known of each solution, by
            block and ρ.
        """
        blocks = range(1, self.audited.blocks + 1)
        problems = {(i, s.rho): self.problem(i, s) for i in blocks for s in self.settings}
        asked_for = [*problems.values(), *(self.problem(i, s) for i in blocks for s in self._beside)]
        open_keys = {p.key for p in asked_for if self.measurements.solution(p.key) is None}
        fit_tokens = self.data.splits[FIT].ids.size
        for problem in asked_for:
            if problem.key not in open_keys:
                self.meter.found(1, self.audited.cost.corrected(problem.settings, fit_tokens))
        asked = {"damage": self._planted}
        scores = self.measurements.find("scores", asked)
        rounding = None if self.what_if is None or self._rounding_products() is not None else self._products_by_block()
        if scores is None or open_keys or rounding is not None:
            walk = self.walk()
            self.meter.phase("block_references")
            rows = self._walker.backward(walk, partial(self._submit, walk, open_keys, rounding))
            if rounding is not None:
                self._keep_rounding_products(rounding)
            scores = self.measurements.measured(
                "scores",
                asked,
                lambda: {kind: [self._by_document(rows, kind, i) for i in blocks] for kind in SUBLAYERS},
            )
        products = {kind: [None if r is None else np.array(r) for r in rows] for kind, rows in scores.items()}
        return products, {at: self.measurements.solution(p.key) or {} for at, p in problems.items()}

    @property
    def _beside(self) -> list[CorrectedSettings]:
        """What is solved for each block beside the candidates of its reference."""
        return [settings for settings in (self.free, self.what_if) if settings is not None]

    def _submit(
        self,
        walk: TrainedWalk,
        open_keys: set[str],
        rounding: dict[int, Rows] | None,
        index: int,
        part: Ref,
        gradient: list[Ref],
    ) -> None:
        if rounding is not None:
            self._submit_rounding(walk, rounding[index], index, part, gradient)
        shards = [*walk.states[FIT][index - 1], *walk.states[FIT][index], *gradient]
        for settings in (*self.settings, *self._beside):
            problem = self.problem(index, settings)
            if problem.key in open_keys:
                self.pool.submit(
                    "solve_corrected",
                    problem,
                    part,
                    self.data.fit_documents,
                    *shards,
                    work=self.audited.cost.corrected(settings, self.data.splits[FIT].ids.size),
                    then=partial(self._solved, settings),
                )
        self.pool.finish_all(but=4 * len(self.pool))  # what is submitted keeps its part and states in memory

    @property
    def _scheme(self) -> str | None:
        return None if self.what_if is None else self.what_if.rounded_to

    def _rounding_products(self) -> list[list[float]] | None:
        """Σ⟨g, Δ⟩ of every sequence of fit by block, Δ what rounding the block changes in its output, if known."""
        if self._scheme is None:
            return None
        found: list[list[float]] | None = self.measurements.find("rounding", {"rounded_to": self._scheme})
        return found

    def _products_by_block(self) -> dict[int, Rows]:
        return {index: Rows(self.data.shards[FIT]) for index in range(1, self.audited.blocks + 1)}

    def _submit_rounding(self, walk: TrainedWalk, rows: Rows, index: int, part: Ref, gradient: list[Ref]) -> None:
        def took(shard: Shard, done: Done) -> None:
            rows.put(shard, done.values["products"])
            sequences = shard.rows.stop - shard.rows.start
            self.meter.worked(self.audited.cost.block(sequences * self.data.sequence_length))

        before, after = walk.states[FIT][index - 1], walk.states[FIT][index]
        for shard, h, output, g in zip(self.data.shards[FIT], before, after, gradient, strict=True):
            self.pool.submit(
                "rounding_products",
                index,
                part,
                self._scheme,
                h,
                output,
                g,
                shard=shard.number,
                then=partial(took, shard),
            )

    def _keep_rounding_products(self, rows: dict[int, Rows]) -> None:
        sums = [whole(found).sum(axis=1, dtype=np.float64).tolist() for _, found in sorted(rows.items())]
        self.measurements.measured("rounding", {"rounded_to": self._scheme}, lambda: sums)

    def _solved(self, settings: CorrectedSettings, _: Done) -> None:
        self.meter.solved(self.audited.cost.corrected(settings, self.data.splits[FIT].ids.size))

    def _by_document(self, products: ScaleProducts, kind: str, index: int) -> list[float] | None:
        fit, check = products[kind, index, FIT], products[kind, index, CHECK]
        if fit is None or check is None:
            return None
        return [float(x) for x in np.concatenate([self.data.token_sums(FIT, fit), self.data.token_sums(CHECK, check)])]

    def losses_of(self, split: str, references: Sequence[Reference]) -> dict[str, Sums]:
        """Loss sums per document of references on a split, by name, the trained network's own among them."""

        def measure() -> dict[str, Any]:
            self.meter.phase("selecting" if split == SELECT else "checking")
            rows = self._walker.references(split, list(references))
            return {name: self.data.loss_sums(split, losses).tolist() for name, losses in rows.items()}

        asked = {"references": [asdict(r) for r in references], "damage": self._planted}
        return {name: np.array(v) for name, v in self.measurements.measured(split, asked, measure).items()}

    def measure(self, extra: Sequence[Reference] = ()) -> BlockMeasurements:
        """All four walks, or what is left of them to do.

        Args:
            extra: further references to carry over select.
        """
        trained = self.trained()
        scores, solutions = self.solve()
        blocks = range(1, self.audited.blocks + 1)
        candidates = {
            (i, s.rho): Reference(f"block {i} rho {s.rho}", i, i, solution=self.problem(i, s).key)
            for i in blocks
            for s in self.settings
        }
        freed = {
            i: Reference(free_name(i), i, i, solution=self.problem(i, self.free).key, free=True)
            for i in blocks
            if self.free is not None
        }
        rounded = self._rounded()
        select = self.losses_of(SELECT, [*candidates.values(), *freed.values(), *rounded, *extra])
        choice = choose(select, trained.tokens[SELECT], {key: r.name for key, r in candidates.items()})
        carried = [candidates[i, rho] for i, rho in choice.chosen.items() if rho != ZERO_STEP]
        carried += [*freed.values(), *rounded]
        carried += [] if self.baseline is None else self.baseline.references()
        if self._scheme is not None:
            carried += mixes(self._scheme, dearest_first(self._scheme, blocks, select))
        skips = [Reference(skip_name(i), i, i) for i in blocks]
        return BlockMeasurements(
            trained=trained,
            scores=scores,
            score_tokens=np.concatenate([self.data.all_tokens(name) for name in (FIT, CHECK)]),
            solutions=solutions,
            choice=choice,
            select=select,
            check=self.losses_of(CHECK, [*carried, *skips]),
        )

    def _rounded(self) -> list[Reference]:
        """Each block rounded, and rounded and re-solved."""
        if self.what_if is None or self._scheme is None:
            return []
        blocks = range(1, self.audited.blocks + 1)
        solved = [re_solved(self._scheme, i, self.problem(i, self.what_if).key) for i in blocks]
        return [*(alone(self._scheme, i) for i in blocks), *solved]

    def rounding(self, measured: BlockMeasurements) -> RoundingMeasurements | None:
        """What rounding costs, of what `measure` found; None where the request does not ask."""
        if self._scheme is None:
            return None
        products = self._rounding_products()
        if products is None:
            raise RuntimeError("what rounding does to first order was not measured")
        order = dearest_first(self._scheme, measured.blocks, measured.select)
        return RoundingMeasurements(
            self._scheme, products, order, measured.trained.tokens, measured.select, measured.check
        )
