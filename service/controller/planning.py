"""What an audit would cost, without running it.

As a program (`python -m peelbound.service.controller.planning`): a request's JSON on standard input, an `AuditPlan` or
a `Problem` on standard output. The API runs it so, since it reads configs through libraries that the API keeps out.
"""

import sys

from peelbound.service.controller.cost import CostModel, Sizes
from peelbound.service.controller.inputs import Inputs, open_inputs
from peelbound.service.plan import CONTROL_SIGMAS, Plan, make_plan, mix_sizes
from peelbound.service.problems import as_problem
from peelbound.service.schemas.plan import AuditPlan, WalkCost
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings
from peelbound.workers.calibration import loss_mask
from peelbound.workers.errors import PeelboundError
from peelbound.workers.heap import SLACK_BYTES
from peelbound.workers.passes import HEAD_TOKENS

FLOPS_PER_WORKER = 4e10
"""What one CPU thread was seen to sustain over whole audits; a GPU is faster, so the estimate is on the safe side."""
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


def plan_request(request: AuditRequest, settings: Settings) -> AuditPlan:
    """Resolve a request against its checkpoint and calibration set, and count what it takes.

    Raises:
        PeelboundError: whatever would end the audit before its first walk.
    """
    inputs = open_inputs(request, settings)
    checkpoint, architecture = inputs.checkpoint, inputs.checkpoint.architecture
    plan = make_plan(request, architecture.block_count, architecture.hidden_size)
    cost, sizes = CostModel.of(checkpoint), Sizes.of(inputs.calibration)
    walks = cost.walks(plan, sizes)
    total = cost.total(plan, sizes)
    return AuditPlan(
        preset=plan.preset,
        blocks=plan.blocks,
        parameters=checkpoint.parameters,
        checkpoint_bytes=checkpoint.total_bytes,
        documents={name: split.documents for name, split in inputs.calibration.splits.items()},
        tokens={name: int(loss_mask(split).sum()) for name, split in inputs.calibration.splits.items()},
        walks=[WalkCost(name=name, bytes_read=_bytes_read(name, inputs), flops=walks[name]) for name in plan.walks],
        problems=plan.problem_counts,
        maps=[list(anchors) for anchors in plan.maps],
        flops=total,
        state_bytes=_state_bytes(plan, inputs),
        worker_bytes=_worker_bytes(plan, cost, inputs),
        result_bytes=_result_bytes(plan, cost),
        estimated_seconds=total / (FLOPS_PER_WORKER * settings.workers),
        assumed_flops_per_second=FLOPS_PER_WORKER,
        workers=settings.workers,
    )


def _bytes_read(walk: str, inputs: Inputs) -> int:
    """Of a walk: all blocks, before the first walk of each checkpoint also its parts outside the blocks."""
    rest, *blocks = inputs.checkpoint.part_bytes
    original = [0] if inputs.baseline is None else inputs.baseline.checkpoint.part_bytes
    match walk:
        case "baseline":
            return sum(original)
        case "trained states":
            return rest + sum(blocks)
        case "check":
            return sum(blocks) + sum(original[1:])
        case _:
            return sum(blocks)


def _state_bytes(plan: Plan, inputs: Inputs) -> int:
    """Trained states of the splits that keep them at every boundary or inside blocks, and what a walk adds to them.

    On the walk back two boundaries of gradients; on a walk with references the states of each, before and after a
    block.
    """
    sizes, width = Sizes.of(inputs.calibration), inputs.checkpoint.architecture.hidden_size
    kept = sizes.fit + sizes.check + (sizes.select if plan.maps or plan.band else 0)
    beside = plan.blocks * (plan.free_corrected is not None) + 2 * plan.blocks * (plan.what_if is not None)
    planted = len(CONTROL_SIGMAS) * plan.positive_control
    candidates = plan.blocks * len(plan.corrected) + beside + len(plan.matrix_cells) + planted + 1
    taken = plan.blocks * plan.baseline
    mixes = len(mix_sizes(plan.blocks)) * (plan.what_if is not None)
    carried = max(sizes.select * candidates, sizes.check * (2 * plan.blocks + 1 + beside + mixes + taken))
    inside = sizes.fit * plan.blocks * plan.middles
    return MASTER_BYTES * width * (kept * (plan.blocks + 1) + inside + 2 * max(sizes.fit + sizes.check, carried))


def _worker_bytes(plan: Plan, cost: CostModel, inputs: Inputs) -> int:
    """Peak of a worker above its baseline: what it holds throughout, and the largest of its three kinds of task.

    On top comes freed memory that it has not given back yet.

    Nothing in it but empty blocks grows with their number: what it takes in lies in the object store, and the states of
    a walk are handed over one network at a time.
    """
    sizes, architecture = Sizes.of(inputs.calibration), inputs.checkpoint.architecture
    width = MASTER_BYTES * architecture.hidden_size
    rest = MASTER_BYTES * (architecture.parameter_count() - cost.block_parameters * plan.blocks)
    grain = 34 * width * plan.grain * sizes.length  # activations: about 34 widths a token
    logits = LOGIT_COPIES * MASTER_BYTES * architecture.vocab_size * HEAD_TOKENS
    solve = cost.block_parameters * SOLVER_BYTES + SOLVE_STATES * width * sizes.fit + grain
    refit = HEAD_COPIES * MASTER_BYTES * cost.head_parameters + width * (sizes.fit + sizes.select) + logits
    passing = width * max(sizes.fit, sizes.select, sizes.check) + max(grain, logits)
    throughout = rest + 2 * MASTER_BYTES * cost.block_parameters + SKELETON_BYTES * plan.blocks + SLACK_BYTES
    return int(throughout + max(solve, refit, passing))


def _result_bytes(plan: Plan, cost: CostModel) -> int:
    counts = plan.problem_counts
    solved = sum(n for kind, n in counts.items() if kind != "head")
    return int(MASTER_BYTES * (cost.block_parameters * solved + cost.head_parameters * counts["head"]))


def main() -> int:
    """Answer one request; the exit status is 0 for a plan and 1 for a problem."""
    try:
        plan = plan_request(AuditRequest.model_validate_json(sys.stdin.buffer.read()), Settings())
    except PeelboundError as error:
        sys.stdout.write(as_problem(error).model_dump_json())
        return 1
    sys.stdout.write(plan.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
