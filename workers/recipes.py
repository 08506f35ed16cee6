"""Settings of the solvers, as plain data: what a plan states, a key hashes and a report shows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arithmetic:
    """How blocks are computed; part of every key, since each choice changes bits."""

    precision: str = "float32"
    """`float32`; `bfloat16`: products of matrices in bfloat16 by autocast, weights and states in float32."""
    compile: bool = False
    """Whether blocks go through `torch.compile`."""


FLOAT32 = Arithmetic()
"""The default: what the library computes."""


@dataclass(frozen=True)
class CorrectedSettings:
    """How a block reference is solved against its corrected target."""

    rho: float
    """Step size: η = ρ · median‖h[l] − h[l−1]‖ / median‖g[l]‖."""
    steps: int
    learning_rate: float
    """Of Adam; decays linearly to zero."""
    gradient_clip: float
    """‖g‖ of a token is cut at this many medians: the norm has a heavy tail."""
    outlier: float
    """A token with ‖h‖ above this many medians (massive activations) loses its linear term and weighs (median/‖h‖)²."""
    free: bool = False
    """Whether the block leaves the model's weight class and is solved in full precision."""
    rounded_to: str | None = None
    """Beside a model in full precision: the weight class that the block is rounded to and solved in."""
    code_travel: float = 0.7
    """Where a map is held to a grid: how far its weights may go, in mean steps of that grid. Adam's steps are about as
    long as its rate, so that a weight whose gradient keeps its sign goes so far; half a step carries it to another
    code. docs/method.md says what was tried."""


@dataclass(frozen=True)
class StateSettings:
    """How a peeled block of a reference network is solved from a fresh start, by AdamW."""

    steps: int
    """Where the halves are solved one after the other: of each."""
    learning_rate: float
    """Peak; warmed up over 5% of the steps while it falls to zero."""
    batch: int
    """Sequences a step."""
    schedule: str
    """How the rate falls: `linear` or `cosine`."""
    halves: bool
    """Whether attention and MLP are peel problems of their own where the target is the block's own trained state."""
    free: bool = False
    """Whether the block is solved in full precision beside a model of another weight class."""


@dataclass(frozen=True)
class HeadSettings:
    """How a head is refitted: Adam, linear decay, stopped where select is best."""

    steps: int
    learning_rate: float
    batch: int
    """Sequences a step."""
    evaluations: int
    """How often select is looked at; the unchanged head is always a candidate."""
