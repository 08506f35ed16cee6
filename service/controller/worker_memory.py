"""What a worker's tasks take of its memory: for the plan, and for who gets which task."""

from collections.abc import Mapping
from dataclasses import dataclass

from peelbound.service.controller.cost import CostModel, Sizes
from peelbound.service.plan import Plan
from peelbound.workers.architecture import Architecture
from peelbound.workers.heap import SLACK_BYTES
from peelbound.workers.passes import HEAD_TOKENS

MASTER_BYTES = 4
SOLVER_BYTES = 18
"""Per parameter being solved: fp32 weight, gradient, two moments of Adam, and the two arrays of the size of its largest
matrix that a step takes in passing (here half a number for each of the block's parameters)."""
SKELETON_BYTES = 100_000
"""Python's objects of one block without weights; 70 kB were seen for llama's."""
SOLVE_STATES = 6
"""Of fit during a solve: input, target, gradient, output or the state between halves, and what their differences and
norms take in passing."""
LOGIT_COPIES = 4
"""Of a chunk's logits: as they come out, as probabilities, and the gradients of both."""
HEAD_COPIES = 7
"""Of the output projection during its refit: as it was, live, gradient, two moments, the best so far, a candidate."""


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes above what a worker takes to be there at all.

    Nothing in it but empty blocks grows with their number: what it takes in lies in the object store, and the states of
    a walk are handed over one network at a time.
    """

    throughout: int
    """The model without its blocks, a block as it comes in and goes out, and freed memory not given back yet."""
    solve: int
    """A peel problem with all its states at hand."""
    refit: int
    """A head's."""
    passing: int
    """A pass of a whole split, should one worker have to do it alone."""

    @classmethod
    def of(cls, plan: Plan, cost: CostModel, sizes: Sizes, architecture: Architecture) -> "WorkerMemory":
        """From the plan and the shapes of the model."""
        width = MASTER_BYTES * architecture.hidden_size
        rest = MASTER_BYTES * (architecture.parameter_count() - cost.block_parameters * plan.blocks)
        grain = 34 * width * plan.grain * sizes.length  # activations: about 34 widths a token
        logits = LOGIT_COPIES * MASTER_BYTES * architecture.vocab_size * HEAD_TOKENS
        return cls(
            int(rest + 2 * MASTER_BYTES * cost.block_parameters + SKELETON_BYTES * plan.blocks + SLACK_BYTES),
            int(cost.block_parameters * SOLVER_BYTES + SOLVE_STATES * width * sizes.fit + grain),
            int(HEAD_COPIES * MASTER_BYTES * cost.head_parameters + width * (sizes.fit + sizes.select) + logits),
            int(width * max(sizes.fit, sizes.select, sizes.check) + max(grain, logits)),
        )

    @property
    def peak(self) -> int:
        """The most at any time."""
        return self.throughout + max(self.solve, self.refit, self.passing)

    @property
    def by_method(self) -> Mapping[str, int]:
        """What those methods of a worker take that take more than `least`."""
        return {
            "solve_corrected": self.throughout + self.solve,
            "solve_state": self.throughout + self.solve,
            "refit_head": self.throughout + self.refit,
        }

    @property
    def least(self) -> int:
        """What a pass takes, and so every task."""
        return self.throughout + self.passing
