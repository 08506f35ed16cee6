"""What passes and solves cost, in FLOPs: for the plan, the progress and the benches."""

from dataclasses import dataclass

from peelbound.service.plan import CONTROL_SIGMAS, Plan, mix_sizes
from peelbound.workers.calibration import CalibrationSet
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.recipes import CorrectedSettings, HeadSettings, StateSettings

STEP = 3
"""An optimiser step costs this many forward passes: forward, and two products of the same size backward (Kaplan et al.
2020, arXiv 2001.08361, section 2.1)."""


BACKWARD = 3
"""A step of the walk back: the block computed again, and two products for each of its own."""


@dataclass(frozen=True)
class Sizes:
    """Tokens of the splits."""

    fit: int
    select: int
    check: int
    length: int
    """Of a sequence."""

    @classmethod
    def of(cls, calibration: CalibrationSet) -> "Sizes":
        """From the packed calibration set."""
        fit, select, check = (calibration.splits[name].ids.size for name in ("fit", "select", "check"))
        return cls(fit, select, check, calibration.sequence_length)


@dataclass(frozen=True)
class CostModel:
    """FLOPs by the usual count: two per parameter and token forward."""

    block_parameters: float
    """Mean over blocks."""
    head_parameters: float
    """Of the output projection."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "CostModel":
        """From a checkpoint's headers."""
        architecture = checkpoint.architecture
        head = float(architecture.hidden_size * architecture.vocab_size)
        embeddings = head if architecture.tied_embeddings else 2 * head
        return cls(max(0.0, architecture.parameter_count() - embeddings) / architecture.block_count, head)

    def block(self, tokens: float, passes: float = 1) -> float:
        """Passes of tokens through a block."""
        return 2 * self.block_parameters * tokens * passes

    def head(self, tokens: float, passes: float = 1) -> float:
        """Passes of tokens through the head."""
        return 2 * self.head_parameters * tokens * passes

    def corrected(self, settings: CorrectedSettings, fit_tokens: float) -> float:
        """A block reference: two half gradients, the steps, one last look."""
        return self.block(fit_tokens, STEP * (2 + settings.steps) + 1)

    def state(self, settings: StateSettings, fit_tokens: float, select_tokens: float, length: int) -> float:
        """A peeled block: the steps, and its outputs."""
        batch = min(settings.batch * length, fit_tokens)
        return self.block(batch, STEP * settings.steps) + self.block(fit_tokens + select_tokens)

    def refit(self, settings: HeadSettings, fit_tokens: float, select_tokens: float, length: int) -> float:
        """A head refit: the steps, the looks at select, fit before and after."""
        batch = min(settings.batch * length, fit_tokens)
        looks = select_tokens * (1 + settings.evaluations) + 2 * fit_tokens
        return self.head(batch, STEP * settings.steps) + self.head(looks)

    def walks(self, plan: Plan, sizes: Sizes) -> dict[str, float]:
        """FLOPs of each walk of the plan, the solves apart."""
        blocks = plan.blocks
        everything = sizes.fit + sizes.select + sizes.check
        both = sizes.fit + sizes.check
        on_the_way = (blocks + 1) / 2  # references leave at every block alike: half the blocks are ahead of one
        freed = blocks * (plan.free_corrected is not None)
        rounded = blocks * (plan.what_if is not None)
        candidates = blocks * len(plan.corrected) + freed + 2 * rounded
        mixes = len(mix_sizes(blocks)) * (plan.what_if is not None)
        planted = len(CONTROL_SIGMAS) * plan.positive_control

        def carried(tokens: int, references: float, skips: int = 0, whole: int = 0) -> float:
            # A block that is left out is one pass less; a mix of rounded blocks leaves at one of the first.
            passes = blocks * (1 + whole) + references * on_the_way + skips * (on_the_way - 1)
            return self.block(tokens, passes) + self.head(tokens, 1 + references + skips + whole)

        forward = self.block(everything, blocks) + self.head(both, BACKWARD) + self.head(sizes.select)
        inside = self.block(sizes.fit, blocks) * plan.middles
        backward = self.block(both, blocks * BACKWARD)
        names = plan.walks
        taken = blocks * plan.baseline
        own = [self.block(sizes.check, blocks) + self.head(sizes.check)] * plan.baseline
        costs = [
            *own,
            forward + inside,
            backward + self.block(sizes.fit, rounded),
            carried(sizes.select, candidates + len(plan.matrix_cells) + planted),
            carried(sizes.check, blocks + freed + 2 * rounded + taken, skips=blocks, whole=mixes),
            forward,
            backward,
            carried(sizes.select, blocks),
            carried(sizes.check, blocks, skips=blocks),
        ]
        return dict(zip(names, costs, strict=False))

    def solves(self, plan: Plan, sizes: Sizes) -> float:
        """FLOPs of all peel problems, suggested maps counted without shared prefixes."""
        counts = plan.problem_counts
        corrected = sum(self.corrected(s, sizes.fit) for s in plan.corrected) * plan.blocks
        if plan.free_corrected is not None:
            corrected += self.corrected(plan.free_corrected, sizes.fit) * plan.blocks
        if plan.what_if is not None:
            corrected += self.corrected(plan.what_if, sizes.fit) * plan.blocks
        corrected += self.corrected(plan.control_steps[0], sizes.fit) * counts.get("positive_control", 0)
        state = self.state(plan.state, sizes.fit, sizes.select, sizes.length)
        refit = self.refit(plan.head, sizes.fit, sizes.select, sizes.length)
        states = sum(counts.get(kind, 0) for kind in ("matrix", "reference_network", "full_precision_network"))
        return corrected + state * states + refit * counts["head"]

    def total(self, plan: Plan, sizes: Sizes) -> float:
        """FLOPs of the whole audit."""
        return sum(self.walks(plan, sizes).values()) + self.solves(plan, sizes)
