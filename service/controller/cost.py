"""What passes and solves cost, in FLOPs: for the plan, the progress and the benches."""

from dataclasses import dataclass

from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.recipes import CorrectedSettings, HeadSettings, StateSettings

STEP = 3
"""An optimiser step costs this many forward passes: forward, and two products of the same size backward (Kaplan et al.
2020, arXiv 2001.08361, section 2.1)."""


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
