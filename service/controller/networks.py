"""Reference networks, the head control and the peeling matrix: all that starts from fresh blocks or a new head."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peelbound.service.controller.blocks import BlockAudit
from peelbound.service.controller.measurements import Measurements
from peelbound.service.controller.members import Ref
from peelbound.service.controller.meter import Meter
from peelbound.service.controller.pool import Pool, Task
from peelbound.service.controller.subject import CHECK, FIT, SELECT, Audited, Data
from peelbound.service.plan import Anchors, Node, Plan, map_name, target_map, trie
from peelbound.workers.keys import seed_of
from peelbound.workers.tasks import TRAINED, Done, HeadProblem, Reference, StateProblem

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class HeadResult:
    """A refitted head on some network's h[K]."""

    key: str
    chosen_step: int
    extra_parameters: int
    """What it has beyond the audited model: an output projection that was tied."""
    loss_sums: dict[str, Sums]
    """Per document: `fit`, `fit_unchanged` (with the head as it was), `select`."""


@dataclass(frozen=True)
class Network:
    """A reference network."""

    name: str
    anchors: Anchors
    residuals: list[float]
    """Relative error of each peeled block on fit."""
    head: HeadResult


@dataclass
class _Outputs:
    """h after a node, in pieces: the trained states by shard, those of a peeled block whole."""

    fit: list[Ref]
    select: list[Ref]


class NetworkAudit:
    """Solves the peel problems with state targets of one checkpoint."""

    def __init__(
        self,
        audited: Audited,
        data: Data,
        pool: Pool,
        measurements: Measurements,
        meter: Meter,
        plan: Plan,
        blocks: BlockAudit,
    ) -> None:
        """Bind to a checkpoint.

        Args:
            audited: the checkpoint on the pool.
            data: the calibration set.
            pool: the actors.
            measurements: where results lie.
            meter: the progress.
            plan: maps, band and settings.
            blocks: has the trained states, kept for fit and select.
        """
        self.audited, self.data, self.pool, self.plan = audited, data, pool, plan
        self.measurements, self.meter, self.blocks = measurements, meter, blocks
        self._nodes: dict[tuple[int, ...], str] = {}

    def forget(self) -> None:
        """Drop the trained states."""
        self.blocks.forget()

    # Peel problems

    def _problem(self, block: int, target: int, source: str) -> StateProblem:
        """Fit a fresh `block` on the output of `source` (a solution's key, or `trained`: h[block−1]) to h[target]."""
        seed = seed_of(self.plan.seed, "block", block)
        asked = {
            "block": block,
            "target": target,
            "source": source,
            "settings": asdict(self.plan.state),
            "seed": seed,
        }
        key = self.measurements.key("state", asked)
        return StateProblem(key, block, self.plan.state, seed, self.measurements.solution(key) is not None)

    def _peel(self, problem: StateProblem, target: int, source: _Outputs, residuals: dict[Any, Any], at: Any) -> Task:
        cost = self._cost()
        if problem.solved:
            self.meter.found(1, cost)

        walk, targets = self.blocks.walk(), self._trained(target)
        middles = walk.middles.get(problem.index, []) if target == problem.index and not problem.solved else []

        def took(done: Done) -> None:
            residuals[at] = done.values
            if not problem.solved:
                self.meter.solved(cost)

        return self.pool.submit(
            "solve_state",
            problem,
            (len(source.fit), len(targets.fit), len(source.select), len(targets.select)),
            *source.fit,
            *targets.fit,
            *source.select,
            *targets.select,
            *middles,
            outputs=2,
            then=took,
        )

    def _cost(self) -> float:
        fit, select = (self.data.splits[name].ids.size for name in (FIT, SELECT))
        return self.audited.cost.state(self.plan.state, fit, select, self.data.sequence_length)

    def _trained(self, boundary: int) -> _Outputs:
        states = self.blocks.walk().states
        return _Outputs(list(states[FIT][boundary]), list(states[SELECT][boundary]))

    # The peeling matrix

    def matrix(self) -> tuple[dict[tuple[int, int], float], list[Reference]]:
        """Solve the band's cells.

        Returns:
            Relative error on select by (source, target), and each cell as a reference to be carried over select.
        """
        problems = {(s, t): self._problem(s + 1, t, TRAINED) for s, t in self.plan.matrix_cells}
        found = {cell: self.measurements.solution(p.key) for cell, p in problems.items()}
        open_cells = [cell for cell, value in found.items() if value is None]
        self.meter.found(len(found) - len(open_cells), self._cost() * (len(found) - len(open_cells)))
        if open_cells:
            self.meter.phase("peeling_matrix")
        for source, target in open_cells:
            cell = (source, target)
            self._peel(problems[cell], target, self._trained(source), found, cell)
            self.pool.finish_all(but=2 * len(self.pool))
        self.pool.finish_all()
        residuals = {cell: value["select_residual"] for cell, value in found.items() if value is not None}
        references = [
            Reference(cell_name(s, t), s + 1, t, solution=problems[s, t].key) for s, t in self.plan.matrix_cells
        ]
        return residuals, references

    # Heads

    def head_control(self) -> HeadResult:
        """Refit the head on the trained states."""
        return self._heads({TRAINED: None})[TRAINED]

    def _heads(self, outputs: Mapping[str, _Outputs | None]) -> dict[str, HeadResult]:
        """Refit a head on each network's h[K]; by the key of the network's last solution, or `trained`."""
        results: dict[str, HeadResult] = {}
        fresh: dict[str, tuple[HeadProblem, dict[str, Any]]] = {}
        for source, output in outputs.items():
            if (found := self._find_head(source)) is not None:
                self.meter.found(1, self._head_cost())
                results[source] = found
                continue
            problem, asked = fresh[source] = self._head(source)
            self._refit(problem, output or self._trained(self.plan.blocks), partial(self._keep_head, asked))
        self.pool.finish_all()
        for source, (problem, asked) in fresh.items():
            results[source] = _head_result(problem.key, self.measurements.find("head-losses", asked))
        return results

    def _head(self, source: str) -> tuple[HeadProblem, dict[str, Any]]:
        """The refit on a network's h[K], and what is asked of it."""
        seed = seed_of(self.plan.seed, "head")
        asked = {"source": source, "settings": asdict(self.plan.head), "seed": seed}
        return HeadProblem(self.measurements.key("head", asked), self.plan.head, seed), asked

    def _find_head(self, source: str) -> HeadResult | None:
        """The refit, if it was measured and is still there to be measured on check."""
        problem, asked = self._head(source)
        found = self.measurements.find("head-losses", asked)
        whole = found is not None and self.measurements.solution(problem.key) is not None
        return _head_result(problem.key, found) if whole else None

    def _refit(self, problem: HeadProblem, output: _Outputs, then: Any) -> None:
        self.pool.submit(
            "refit_head",
            problem,
            self._rows("ids", FIT),
            self._rows("mask", FIT),
            self._rows("ids", SELECT),
            self._rows("mask", SELECT),
            len(output.fit),
            *output.fit,
            *output.select,
            then=then,
        )

    def _keep_head(self, asked: dict[str, Any], done: Done) -> None:
        values = done.values
        losses = {
            "fit": self.data.loss_sums(FIT, values["fit"]).tolist(),
            "fit_unchanged": self.data.loss_sums(FIT, values["fit_unchanged"]).tolist(),
            "select": self.data.loss_sums(SELECT, values["select"]).tolist(),
        }
        kept = {"losses": losses, "chosen_step": values["chosen_step"], "extra_parameters": values["extra_parameters"]}
        self.measurements.measured("head-losses", asked, lambda: kept)
        self.meter.solved(self._head_cost())

    def _head_cost(self) -> float:
        fit, select = (self.data.splits[name].ids.size for name in (FIT, SELECT))
        return self.audited.cost.refit(self.plan.head, fit, select, self.data.sequence_length)

    def _rows(self, kind: str, split: str) -> Any:
        return self.data.splits[split].ids if kind == "ids" else self.data.masks[split]

    # Networks

    def networks(self, maps: Sequence[Anchors]) -> list[Network]:
        """Build the reference networks of these maps; peel problems that they share are solved once."""
        nodes = trie(maps)
        self._drop_what_is_shared(len(nodes), len(maps))
        self._nodes = {(): TRAINED}
        problems: dict[tuple[int, ...], StateProblem] = {}
        for node in nodes:
            source = self._nodes[node.parent]
            problems[node.path] = self._problem(node.block, node.target, source)
            self._nodes[node.path] = problems[node.path].key
        ends = {anchors: self._nodes[target_map(anchors)] for anchors in maps}
        asked = {"nodes": [problems[node.path].key for node in nodes]}
        residuals = self.measurements.find("residuals", asked)
        heads = {key: self._find_head(key) for key in ends.values()}
        whole = all(problem.solved for problem in problems.values())
        if residuals is None or not whole or not all(heads.values()):
            outputs, measured = self._build(nodes, problems)
            residuals = self.measurements.measured("residuals", asked, lambda: measured)
            heads = dict(self._heads({ends[a]: outputs[target_map(a)] for a in maps}))
        else:
            cost = self._cost() * len(nodes) + self._head_cost() * len(maps)
            self.meter.found(len(nodes) + len(maps), cost)
        by_path = {node.path: residual for node, residual in zip(nodes, residuals, strict=True)}
        networks = []
        for anchors in maps:
            path, head = target_map(anchors), heads[ends[anchors]]
            if head is None:
                raise RuntimeError(f"the head of {map_name(anchors)} was not measured")
            trail = [by_path[path[:depth]] for depth in range(1, len(path) + 1)]
            networks.append(Network(map_name(anchors), anchors, trail, head))
        return networks

    def _drop_what_is_shared(self, nodes: int, maps: int) -> None:
        """The plan could not know which prefixes, or which whole map, a suggested map shares with the others."""
        planned_maps = len(self.plan.maps) + self.plan.suggested_maps
        planned_nodes = self.plan.problem_counts["reference_network"]
        spared_nodes, spared_heads = planned_nodes - nodes, planned_maps - maps
        work = self._cost() * spared_nodes + self._head_cost() * spared_heads
        self.meter.unneeded(spared_nodes + spared_heads, work)

    def _build(
        self, nodes: Sequence[Node], problems: Mapping[tuple[int, ...], StateProblem]
    ) -> tuple[dict[tuple[int, ...], _Outputs], list[float]]:
        """Solve or look up every node and push the tokens through; a node waits for its parent only."""
        self.meter.phase("reference_networks")
        outputs: dict[tuple[int, ...], _Outputs] = {(): self._trained(0)}
        values: dict[tuple[int, ...], dict[str, float]] = {}
        parents = {node.parent: node.path for node in nodes}  # the last child of each
        for node in nodes:
            task = self._peel(problems[node.path], node.target, outputs[node.parent], values, node.path)
            fit, select = task.outputs
            outputs[node.path] = _Outputs([fit], [select])
            if parents[node.parent] == node.path:
                del outputs[node.parent]  # tasks in flight keep what they need
        self.pool.finish_all()
        return outputs, [values[node.path]["fit_residual"] for node in nodes]

    def check_losses(self, networks: Sequence[Network], control: HeadResult | None = None) -> dict[str, Sums]:
        """Loss sums per document on check of these networks and of the head control (`control`), if given, by name."""
        chains = {n.name: ([self._nodes[p] for p in _prefixes(target_map(n.anchors))], n.head.key) for n in networks}
        if control is not None:
            chains["control"] = ([], control.key)

        def measure() -> dict[str, Any]:
            self.meter.phase("checking")
            return {name: self._measure_chain(*chain) for name, chain in chains.items()}

        found = self.measurements.measured("check-networks", {"chains": chains}, measure)
        return {name: np.array(values) for name, values in found.items()}

    def _measure_chain(self, solutions: Sequence[str], head: str) -> list[float]:
        shards = self.data.shards[CHECK]
        walk = self.blocks.walk()
        states = walk.states[CHECK][0 if solutions else self.plan.blocks]
        for index, key in enumerate(solutions, start=1):
            states = [
                self.pool.submit(
                    "apply_solution", key, index, state, self.plan.state.free, outputs=1, shard=shard.number
                ).outputs[0]
                for shard, state in zip(shards, states, strict=True)
            ]
        rows: dict[int, Any] = {}

        def took(start: int, done: Done) -> None:
            rows[start] = done.values["trained"]

        for shard, state in zip(shards, states, strict=True):
            self.pool.submit(
                "losses",
                shard.ids,
                shard.mask,
                head,
                [TRAINED],
                None,
                state,
                shard=shard.number,
                then=partial(took, shard.rows.start),
            )
        self.pool.finish_all()
        return [float(x) for x in self.data.loss_sums(CHECK, np.concatenate([rows[s.rows.start] for s in shards]))]


def cell_name(source: int, target: int) -> str:
    """Name of a matrix cell among the references carried over select."""
    return f"matrix {source} {target}"


def _prefixes(path: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [path[:depth] for depth in range(1, len(path) + 1)]


def _head_result(key: str, found: dict[str, Any]) -> HeadResult:
    sums = {name: np.array(values) for name, values in found["losses"].items()}
    return HeadResult(key, found["chosen_step"], found["extra_parameters"], sums)
