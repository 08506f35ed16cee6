"""Walks: passes of the calibration tokens over all blocks, block by block.

A block's bytes are read once per walk and shared by all actors; each actor carries its shard of the sequences. Tasks of
successive blocks are chained by references, so that no actor waits for another. A walk runs at most three blocks ahead;
on the walk back, open peel problems keep their blocks too.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peelbound.service.controller.cost import BACKWARD
from peelbound.service.controller.members import Ref
from peelbound.service.controller.meter import Meter
from peelbound.service.controller.pool import Pool, Task
from peelbound.service.controller.subject import CHECK, FIT, SELECT, Audited, Data, Shard
from peelbound.workers.tasks import Damage, Done, Reference, TrainedBlock

Floats = NDArray[np.float32]
FORWARD = 1
OnBlock = Callable[[int, Ref, list[Ref]], None]


class Window:
    """Holds a walk back while more than `size` of its steps are unfinished."""

    def __init__(self, pool: Pool, size: int = 2) -> None:
        self._pool, self._size = pool, size
        self._steps: deque[list[Task]] = deque()

    def add(self, tasks: list[Task]) -> None:
        """One more step; waits for the oldest while there are too many."""
        self._steps.append(tasks)
        while len(self._steps) > self._size:
            self._pool.finish(self._steps.popleft())

    def drain(self) -> None:
        """Wait for all steps."""
        while self._steps:
            self._pool.finish(self._steps.popleft())


class Rows:
    """Puts the shards' rows of one split together, in whatever order they come."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._parts: dict[int, Floats] = {}

    def put(self, shard: Shard, rows: Floats) -> None:
        """Take the rows of a shard."""
        self._parts[shard.rows.start] = rows

    def array(self) -> Floats | None:
        """All rows; None where any shard had none."""
        parts = [self._parts[shard.rows.start] for shard in self._shards]
        return None if any(p is None for p in parts) else np.concatenate(parts)


@dataclass
class TrainedWalk:
    """What the walk forward leaves: states in Ray's object store, measurements here."""

    states: dict[str, dict[int, list[Ref]]]
    """h[l] by split, boundary l and shard: all of 0..K where they were asked for, else K alone."""
    middles: dict[int, list[Ref]] = field(default_factory=dict)
    """The states of fit inside block l, between attention and MLP, by shard; where they were asked for."""
    top_gradient: dict[str, list[Ref]] = field(default_factory=dict)
    """g[K] by split and shard, for fit and check."""
    losses: dict[str, Floats] = field(default_factory=dict)
    """Cross-entropy of every token [N, T−1] by split."""
    influence: list[float] = field(default_factory=list)
    """1 − mean cosine similarity over check, per block."""
    select_influence: list[float] = field(default_factory=list)
    """The same over select."""
    weights: list[dict[str, Any]] = field(default_factory=list)
    """What the weights alone say, per block: `weight_norm`, `spectrum`."""


ScaleProducts = dict[tuple[str, int, str], Floats | None]
"""⟨gradient, output⟩ of every token [N, T] by sub-layer (`attention`, `mlp`, `block`), block and split."""

SUBLAYERS = ("attention", "mlp", "block")


class Walker:
    """Walks an audited model; with `damage`, the copy of it that carries the planted one."""

    def __init__(
        self,
        audited: Audited,
        data: Data,
        pool: Pool,
        meter: Meter,
        damage: Damage | None = None,
        baseline: Audited | None = None,
    ) -> None:
        """Bind to a model and its data.

        Args:
            audited: the checkpoint on the pool.
            data: its calibration set.
            pool: the actors.
            meter: told of every pass of a shard through a block.
            damage: planted in one block, or None.
            baseline: read along where references take its blocks, or None.
        """
        self.audited, self.data, self.pool, self.meter, self.damage = audited, data, pool, meter, damage
        self.baseline = baseline

    def _flops(self, passes: int, shard: Shard) -> float:
        sequences, length = shard.rows.stop - shard.rows.start, self.data.sequence_length
        return self.audited.cost.block(sequences * length, passes)

    def _passed(self, passes: int, shard: Shard) -> None:
        self.meter.worked(self._flops(passes, shard))

    def _headed(self, passes: int, shard: Shard) -> None:
        sequences, length = shard.rows.stop - shard.rows.start, self.data.sequence_length
        self.meter.worked(self.audited.cost.head(sequences * length, passes))

    def _block(self, index: int) -> TrainedBlock:
        return TrainedBlock(index, self.damage)

    def _embed(self, shards: Sequence[Shard]) -> list[Ref]:
        return [self.pool.submit("embed", s.ids, outputs=1, shard=s.number).outputs[0] for s in shards]

    def trained(self, keep: frozenset[str], *, middles: bool = False) -> TrainedWalk:
        """Walk forward: trained states, losses, g[K], block influence, spectra of the weights.

        Args:
            keep: splits whose states are kept at every boundary; of the others only the last is.
            middles: whether the states of fit inside the blocks are kept too.
        """
        data, blocks = self.data, self.audited.blocks
        walk = TrainedWalk({name: {0: self._embed(shards)} for name, shards in data.shards.items()})
        cosines = {(name, i): Rows(data.shards[name]) for name in (SELECT, CHECK) for i in range(1, blocks + 1)}
        weighed: dict[int, dict[str, Any]] = {}
        window = Window(self.pool)

        def took(index: int, shard: Shard, done: Done) -> None:
            if shard.split != FIT:
                cosines[shard.split, index].put(shard, done.values["cosine"])
            self._passed(FORWARD, shard)

        def took_weights(index: int, done: Done) -> None:
            weighed[index] = done.values

        for index, part in self.audited.parts(range(1, blocks + 1)):
            then = partial(took_weights, index)
            tasks = [self.pool.submit("weigh", self._block(index), part, then=then)]
            for name, shards in data.shards.items():
                step = [
                    self.pool.submit(
                        "forward",
                        self._block(index),
                        part,
                        state,
                        outputs=1,
                        shard=shard.number,
                        then=partial(took, index, shard),
                    )
                    for shard, state in zip(shards, walk.states[name][index - 1], strict=True)
                ]
                outputs = [task.outputs[0] for task in step]
                walk.states[name] = (walk.states[name] if name in keep else {}) | {index: outputs}
                tasks += step
            if middles:
                inside = self._middles(index, part, walk.states[FIT][index - 1])
                walk.middles[index] = [task.outputs[0] for task in inside]
                tasks += inside
            window.add(tasks)
        rows = {name: Rows(shards) for name, shards in data.shards.items()}

        def measured(shard: Shard, done: Done) -> None:
            self._headed(BACKWARD, shard)
            rows[shard.split].put(shard, done.values["losses"])

        for name in (FIT, CHECK):
            walk.top_gradient[name] = [
                self.pool.submit(
                    "loss_gradient",
                    state,
                    shard.ids,
                    shard.mask,
                    self.damage,
                    outputs=1,
                    shard=shard.number,
                    then=partial(measured, shard),
                ).outputs[0]
                for shard, state in zip(data.shards[name], walk.states[name][blocks], strict=True)
            ]
        for shard, state in zip(data.shards[SELECT], walk.states[SELECT][blocks], strict=True):
            self._submit_losses(shard, {"trained": state}, {"trained": rows[SELECT]}, shard.number)
        self.pool.finish_all()
        walk.losses = {name: whole(r) for name, r in rows.items()}
        walk.influence, walk.select_influence = (
            [self._influence(name, cosines[name, index]) for index in range(1, blocks + 1)] for name in (CHECK, SELECT)
        )
        walk.weights = [weighed[index] for index in range(1, blocks + 1)]
        return walk

    def _middles(self, index: int, part: Ref, states: list[Ref]) -> list[Task]:
        def took(shard: Shard, _: Done) -> None:
            self._passed(FORWARD, shard)

        return [
            self.pool.submit(
                "middle",
                self._block(index),
                part,
                state,
                outputs=1,
                shard=shard.number,
                then=partial(took, shard),
            )
            for shard, state in zip(self.data.shards[FIT], states, strict=True)
        ]

    def _influence(self, split: str, cosines: Rows) -> float:
        owned = self.data.splits[split].document >= 0
        return 1.0 - float(whole(cosines)[owned].mean(dtype=np.float64))

    def backward(self, walk: TrainedWalk, on_block: OnBlock) -> ScaleProducts:
        """Walk back: gradients of fit and check at every boundary, scale products.

        Args:
            walk: the walk forward, with the states of fit and check.
            on_block: called as `on_block(l, part, g[l] of fit)` when block l's problems can be stated.
        """
        data = self.data
        gradient = {name: walk.top_gradient[name] for name in (FIT, CHECK)}
        rows = {
            (kind, index, name): Rows(data.shards[name])
            for kind in SUBLAYERS
            for index in range(1, self.audited.blocks + 1)
            for name in (FIT, CHECK)
        }

        def took(index: int, shard: Shard, done: Done) -> None:
            for kind in SUBLAYERS:
                rows[kind, index, shard.split].put(shard, done.values[kind])
            self._passed(BACKWARD, shard)

        window = Window(self.pool)
        for index, part in self.audited.parts(range(self.audited.blocks, 0, -1)):
            tasks, below = [], {}
            for name in (FIT, CHECK):
                step = [
                    self.pool.submit(
                        "backward",
                        self._block(index),
                        part,
                        state,
                        g,
                        outputs=1,
                        work=self._flops(BACKWARD, shard),
                        then=partial(took, index, shard),
                    )
                    for shard, state, g in zip(
                        data.shards[name], walk.states[name][index - 1], gradient[name], strict=True
                    )
                ]
                below[name] = [task.outputs[0] for task in step]
                tasks += step
            on_block(index, part, gradient[FIT])
            gradient = below
            window.add(tasks)
        self.pool.finish_all()
        return {key: r.array() for key, r in rows.items()}

    def references(self, split: str, references: list[Reference]) -> dict[str, Floats]:
        """Walk the trained network and all references together; losses of every token [N, T−1] by name."""
        shards = self.data.shards[split]
        names = ["trained", *(r.name for r in references)]
        rows = {name: Rows(shards) for name in names}
        # Where there are more workers than shards, each of a shard's lanes takes a part of the references.
        count = max(1, min(len(references), -(-self.pool.width // len(shards))))
        lanes = [(shard, references[number::count]) for number in range(count) for shard in shards]
        start = self._embed(shards)
        carried = [{"trained": state} for _ in range(count) for state in start]

        def passed(passes: int, shard: Shard, _: Done) -> None:
            self._passed(FORWARD * passes, shard)

        window = Window(self.pool)
        order = range(1, self.audited.blocks + 1)
        beside = self._beside(order, references)
        for (index, part), (_, original) in zip(self.audited.parts(order), beside, strict=True):
            step = []
            for number, (shard, own) in enumerate(lanes):
                states, moving = carry(carried[number], own, index)
                task = self.pool.submit(
                    "advance",
                    self._block(index),
                    part,
                    beside_part(original, moving),
                    [reference for _, reference, _ in moving],
                    *(state for _, _, state in moving),
                    outputs=len(moving),
                    shard=number,
                    # The trained network's own pass is planned once.
                    then=partial(passed, len(moving) - (number >= len(shards)), shard),
                )
                moved = {name: output for (name, _, _), output in zip(moving, task.outputs, strict=True)}
                carried[number] = states | moved
                step.append(task)
            window.add(step)
        for number, ((shard, _), states) in enumerate(zip(lanes, carried, strict=True)):
            if number >= len(shards):
                del states["trained"]  # the first lane has it
            self._submit_losses(shard, states, rows, number)
        self.pool.finish_all()
        return {name: whole(rows[name]) for name in names}

    def _beside(self, order: Sequence[int], references: Sequence[Reference]) -> Iterable[tuple[int, Ref | None]]:
        """The baseline's blocks, if any reference takes one."""
        if self.baseline is None or not any(reference.baseline for reference in references):
            return [(index, None) for index in order]
        return self.baseline.parts(order)

    def _submit_losses(self, shard: Shard, states: dict[str, Ref], rows: dict[str, Rows], lane: int) -> None:
        def took(done: Done) -> None:
            self._headed(len(done.values), shard)
            for name, values in done.values.items():
                rows[name].put(shard, values)

        names = list(states)
        self.pool.submit(
            "losses",
            shard.ids,
            shard.mask,
            None,
            names,
            self.damage,
            *(states[name] for name in names),
            shard=lane,
            then=took,
        )


Moving = tuple[str, Reference | None, Ref]
"""Name, the reference if it has a block of its own here, and the states that go in."""


def carry(states: dict[str, Ref], references: Sequence[Reference], index: int) -> tuple[dict[str, Ref], list[Moving]]:
    """What becomes of each network's states at block `index`.

    Args:
        states: h[index−1] by name: the trained network's, and those of all references that have left it.
        references: all of them.
        index: 1..K.

    Returns:
        The states of references that this block leaves alone (they wait to rejoin, or skip it), and what has to go
        through it or through what replaces it, the trained network first.
    """
    waiting: dict[str, Ref] = {}
    moving: list[Moving] = [("trained", None, states["trained"])]
    for reference in references:
        name = reference.name
        if index in reference.rounds:
            moving.append((name, reference, states["trained" if reference.leaves == index else name]))
        elif reference.leaves == index:
            if reference.skips:
                waiting[name] = states["trained"]
            else:
                moving.append((name, reference, states["trained"]))
        elif reference.leaves < index <= reference.rejoins:
            waiting[name] = states[name]
        elif reference.rejoins < index:
            moving.append((name, None, states[name]))
    return waiting, moving


def beside_part(original: Ref | None, moving: Sequence[Moving]) -> Ref | None:
    """The baseline's block for a lane, if any of its networks leaves with it: else no node need fetch it."""
    return original if any(reference is not None and reference.baseline for _, reference, _ in moving) else None


def whole(rows: Rows) -> Floats:
    """The rows of a split, of which no shard may lack any."""
    array = rows.array()
    if array is None:
        raise RuntimeError("a shard left no rows")
    return array
