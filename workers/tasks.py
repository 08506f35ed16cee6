"""What the controller asks of workers and what they answer, as plain data: it travels, and much of it is hashed."""

from dataclasses import dataclass, field
from typing import Any

from peelbound.workers.recipes import CorrectedSettings, HeadSettings, StateSettings

TRAINED = "trained"
"""Name of the audited network among the references."""


@dataclass(frozen=True)
class Damage:
    """Weight noise planted in one block of the audited model, for the positive control."""

    block: int
    sigma: float
    seed: int


@dataclass(frozen=True)
class TrainedBlock:
    """Which block a pass goes through: the trained one, damaged where `damage` says so."""

    index: int
    damage: Damage | None = None

    @property
    def damaged(self) -> Damage | None:
        """The noise that is planted in this very block."""
        return self.damage if self.damage is not None and self.damage.block == self.index else None


@dataclass(frozen=True)
class Reference:
    """A competitor that leaves the trained network at block `leaves` and rejoins it after block `rejoins`.

    Between stands a solution (`solution` is its key), weight noise (`damage`), or nothing at all: the skip reference.
    With `rounds` it passes the trained blocks and its own rounded ones in turn.
    """

    name: str
    leaves: int
    rejoins: int
    solution: str | None = None
    damage: Damage | None = None
    free: bool = False
    """Whether the solution left the model's weight class for full precision."""
    rounded_to: str | None = None
    """Beside a model in full precision: the weight class of the solution, or that `rounds` are rounded to."""
    baseline: str | None = None
    """Digest of the checkpoint before quantisation, whose block it takes."""
    rounds: tuple[int, ...] = ()
    """Blocks that are rounded to `rounded_to`, `leaves` the first of them; between them the network is the trained."""

    @property
    def skips(self) -> bool:
        """Whether nothing at all stands where it leaves the trained network."""
        return self.solution is None and self.damage is None and self.baseline is None and not self.rounds


@dataclass(frozen=True)
class CorrectedProblem:
    """Peel problem: trained block → corrected target."""

    key: str
    block: TrainedBlock
    settings: CorrectedSettings


@dataclass(frozen=True)
class StateProblem:
    """Peel problem: fresh block → trained state."""

    key: str
    index: int
    settings: StateSettings
    seed: int
    solved: bool
    """Whether the solution lies in object storage and need only be applied."""


@dataclass(frozen=True)
class HeadProblem:
    """Refit of norm and output projection."""

    key: str
    settings: HeadSettings
    seed: int


@dataclass(frozen=True)
class Greeting:
    """What a worker says of itself when it has started."""

    platform: dict[str, str]
    """What results depend on besides their inputs."""
    room: int
    """Bytes that a task may take of its device's memory."""
    memory: str
    """What that memory is of, for people."""
    compiler: str
    """What results depend on besides, where blocks are compiled; empty where there is none."""


@dataclass(frozen=True)
class Done:
    """What a task has to say besides its arrays."""

    seconds: float
    """Time in the task, for the utilisation of the pool; never part of a result."""
    values: dict[str, Any] = field(default_factory=dict)
    stored_bytes: int = 0
    """What the task has put into object storage."""
