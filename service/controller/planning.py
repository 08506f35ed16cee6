"""What an audit would cost, without running it."""

from peelbound.service.controller.cost import CostModel, Sizes
from peelbound.service.controller.inputs import Inputs, open_inputs
from peelbound.service.controller.weights import foretold, require_full_precision
from peelbound.service.controller.worker_memory import MASTER_BYTES, WorkerMemory
from peelbound.service.plan import CONTROL_SIGMAS, Plan, make_plan, mix_sizes
from peelbound.service.schemas.plan import AuditPlan, WalkCost
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings
from peelbound.workers.calibration import loss_mask

FLOPS_PER_WORKER = 4e10
"""What one CPU thread was seen to sustain over whole audits; a GPU is faster, so the estimate is on the safe side."""


def plan_request(request: AuditRequest, settings: Settings) -> AuditPlan:
    """Resolve a request against its checkpoint and calibration set, and count what it takes.

    Raises:
        PeelboundError: whatever would end the audit before its first walk.
    """
    inputs = open_inputs(request, settings)
    checkpoint, architecture = inputs.checkpoint, inputs.checkpoint.architecture
    weights = foretold(checkpoint, request.options.weights)
    require_full_precision(request.what_if, weights)
    plan = make_plan(request, architecture.block_count, architecture.hidden_size, weights.weights.scheme)
    cost, sizes = CostModel.of(checkpoint), Sizes.of(inputs.calibration)
    walks = cost.walks(plan, sizes)
    total = cost.total(plan, sizes)
    return AuditPlan(
        preset=plan.preset,
        blocks=plan.blocks,
        parameters=checkpoint.parameters,
        weights=str(weights.weights.scheme),
        weights_why=weights.why,
        checkpoint_bytes=checkpoint.total_bytes,
        documents={name: split.documents for name, split in inputs.calibration.splits.items()},
        tokens={name: int(loss_mask(split).sum()) for name, split in inputs.calibration.splits.items()},
        walks=[WalkCost(name=name, bytes_read=_bytes_read(name, inputs), flops=walks[name]) for name in plan.walks],
        problems=plan.problem_counts,
        maps=[list(anchors) for anchors in plan.maps],
        flops=total,
        state_bytes=_state_bytes(plan, inputs),
        worker_bytes=WorkerMemory.of(plan, cost, sizes, architecture).peak,
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


def _result_bytes(plan: Plan, cost: CostModel) -> int:
    counts = plan.problem_counts
    solved = sum(n for kind, n in counts.items() if kind != "head")
    return int(MASTER_BYTES * (cost.block_parameters * solved + cost.head_parameters * counts["head"]))
