"""The tasks of a worker that only measure: passes of a shard through blocks and head.

Each turns parts and arrays into calls of plain functions. The bulky results come first and are returned apart from the
small ones (`Done`), so that the controller fetches only the latter. Shapes: N sequences of a shard, T tokens, D hidden
size.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from peelbound.workers import passes, spectrum
from peelbound.workers.blame import CARRIED, SOLVED, blame_of, blame_of_walk
from peelbound.workers.checkpoint.part import Part
from peelbound.workers.passes import Floats, Ints
from peelbound.workers.quantisers.conversion import require_dense
from peelbound.workers.results import load_tensors
from peelbound.workers.tasks import TRAINED, Damage, Done, Reference, TrainedBlock
from peelbound.workers.workbench import Workbench


class PassTasks(Workbench):
    """Passes over the model on the bench."""

    def embed(self, ids: Ints) -> tuple[Floats, Done]:
        """h[0] of a shard."""
        start = self.begin()
        found = self.one_grain("embed", lambda: passes.embed(self.skeleton, ids, self.grain))
        return found, Done(time.perf_counter() - start)

    def forward(self, block: TrainedBlock, part: Part, states: Floats) -> tuple[Floats, Done]:
        """h[l] of a shard from h[l−1]; values: `cosine` [N, T]."""
        start = self.begin()
        after = self.one_grain(
            "forward",
            lambda: passes.forward(
                self.skeleton,
                block.index,
                self._trained(block, part),
                states,
                self.grain,
                whose=blame_of_walk(block.damage),
            ),
        )
        return after, Done(time.perf_counter() - start, {"cosine": passes.cosine(states, after)})

    def middle(self, block: TrainedBlock, part: Part, states: Floats) -> tuple[Floats | None, Done]:
        """The state of a shard between the block's attention and its MLP, from h[l−1]; None: see `passes.middle`."""
        start = self.begin()
        found = self.one_grain(
            "middle",
            lambda: passes.middle(self.skeleton, block.index, self._trained(block, part), states, self.grain),
        )
        return found, Done(time.perf_counter() - start)

    def weigh(self, block: TrainedBlock, part: Part) -> Done:
        """What a block's weights alone say; values: `weight_norm`, `spectrum`."""
        start = self.begin()

        def weighed() -> dict[str, Any]:
            parameters = dict(self._trained(block, part).named_parameters())
            norm = float(sum(p.double().square().sum() for p in parameters.values()) ** 0.5)
            return {"weight_norm": norm, "spectrum": asdict(spectrum.untouched(parameters))}

        return Done(time.perf_counter() - start, self.one_grain("weigh", weighed))

    def loss_gradient(
        self, states: Floats, ids: Ints, mask: NDArray[np.bool_], damage: Damage | None
    ) -> tuple[Floats, Done]:
        """g[K] of a shard; values: `losses` [N, T−1]. `damage`: planted in the network whose states they are."""
        start = self.begin()
        rows, gradient = self.one_grain(
            "loss_gradient",
            lambda: passes.loss_gradient(self.skeleton, states, ids, mask, self.grain, whose=blame_of_walk(damage)),
        )
        return gradient, Done(time.perf_counter() - start, {"losses": rows})

    def backward(self, block: TrainedBlock, part: Part, states: Floats, gradient: Floats) -> tuple[Floats, Done]:
        """g[l−1] of a shard; values: `attention`, `mlp`, `block`: scale products per token [N, T] or None."""
        start = self.begin()
        step = self.one_grain(
            "backward",
            lambda: passes.backward(
                self.skeleton,
                block.index,
                self._trained(block, part),
                states,
                gradient,
                self.grain,
                whose=blame_of_walk(block.damage),
            ),
        )
        values = {"attention": step.attention, "mlp": step.mlp, "block": step.block}
        return step.gradient, Done(time.perf_counter() - start, values)

    def rounding_products(
        self, index: int, part: Part, rounded_to: str, before: Floats, after: Floats, gradient: Floats
    ) -> Done:
        """What rounding a block does to the loss of a shard, to first order; values: `products` [N, T].

        Args:
            index: 1..K.
            part: the block's bytes, of a model in full precision.
            rounded_to: the weight class.
            before: h[l−1], [N, T, D].
            after: h[l].
            gradient: g[l].

        Raises:
            RequestError: a linear map of the block lies on a grid already (slug ``request-what-if-low-bit``).
        """
        start = self.begin()
        self.on_step(0)
        require_dense(self.blocks.maps(index), part.tensors(), rounded_to, index)

        def measured() -> Floats:
            block = self.blocks.rounded(index, part, rounded_to)
            whose = blame_of(Reference("", index, index, rounded_to=rounded_to, rounds=(index,)))
            return passes.output_products(self.skeleton, index, block, before, after, gradient, self.grain, whose=whose)

        products = self.one_grain("rounding_products", measured)
        return Done(time.perf_counter() - start, {"products": products})

    def apply_solution(self, key: str, index: int, states: Floats, free: bool = False) -> tuple[Floats, Done]:
        """Push a shard through a stored peeled block; `free`: one that left the model's weight class."""
        start = self.begin()

        def applied() -> Floats:
            block = self.blocks.solved(index, key, free=free)
            return passes.forward(self.skeleton, index, block, states, self.grain, whose=SOLVED)

        after = self.one_grain("apply_solution", applied)
        return after, Done(time.perf_counter() - start)

    def advance(
        self,
        block: TrainedBlock,
        part: Part,
        baseline: Part | None,
        leaving: list[Reference | None],
        *states: Floats,
    ) -> Iterator[Floats | Done]:
        """Push the trained network and all references of a shard through one block, one after another.

        What comes out of each is handed over before the next one goes in: a worker holds one network's states, however
        many there are.

        Args:
            block: the block that they pass, or that some replace.
            part: its bytes.
            baseline: those of the baseline's block, where a reference takes it.
            leaving: per states, the reference that has a block of its own here, or None: the trained block.
            states: h[l−1] of each, [N, T, D]; the trained network's own come first.

        Yields:
            h[l] of each, then what the task has to say.
        """
        start = self.begin()
        module = self.one_grain("advance", lambda: self._trained(block, part))
        rounded = dict[str, nn.Module]()  # one for all the references that round this block

        def moved(reference: Reference | None, h: Floats, number: int) -> Floats:
            if reference is None:
                own, whose = module, CARRIED if number > 0 else blame_of_walk(block.damage)
            elif block.index in reference.rounds:
                scheme = str(reference.rounded_to)
                own = rounded[scheme] if scheme in rounded else self.blocks.rounded(block.index, part, scheme)
                rounded[scheme] = own
                whose = blame_of(reference)
            else:
                own, whose = self.blocks.leaving(reference, part, baseline), blame_of(reference)
            return passes.forward(self.skeleton, block.index, own, h, self.grain, whose=whose)

        for number, (reference, value) in enumerate(zip(leaving, states, strict=True)):
            self.on_step(number)
            self._heap.settle()
            yield self.one_grain("advance", partial(moved, reference, value, number))
        yield Done(time.perf_counter() - start)

    def losses(
        self,
        ids: Ints,
        mask: NDArray[np.bool_],
        head_key: str | None,
        names: list[str],
        damage: Damage | None,
        *states: Floats,
    ) -> Done:
        """Losses per token [N, T−1] of every network of a shard, by name, with the trained or a refitted head.

        Args:
            ids: [N, T].
            mask: [N, T−1].
            head_key: of the refitted head, or None.
            names: of the networks; `trained` is the audited one, or its copy with `damage`.
            damage: planted in the network that is walked, or None.
            states: h[K] of each, [N, T, D].
        """
        start = self.begin()
        head = None if head_key is None else load_tensors(self.store, head_key)
        values = {}

        def measured(h: Floats, name: str) -> Floats:
            whose = SOLVED if head is not None else blame_of_walk(damage) if name == TRAINED else CARRIED
            return passes.losses(self.skeleton, h, ids, mask, self.grain, head, whose=whose)

        for number, (name, h) in enumerate(zip(names, states, strict=True)):
            self.on_step(number)
            values[name] = self.one_grain("losses", partial(measured, h, name))
        return Done(time.perf_counter() - start, values)

    def _trained(self, block: TrainedBlock, part: Part) -> nn.Module:
        self.on_step(0)
        return self.blocks.trained(block, part)
