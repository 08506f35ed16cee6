"""Whom values that are not finite belong to: what an error says of them, and what its reader can do."""

from dataclasses import dataclass

from peelbound.workers.errors import CheckpointError
from peelbound.workers.tasks import Damage, Reference


@dataclass(frozen=True)
class Blame:
    """One kind of network that passes blocks.

    Attributes:
        where: continues "… holds NaN or Inf".
        slug, remedy, pointer: of the error.
    """

    where: str
    slug: str
    remedy: str
    pointer: str

    def error(self, what: str, index: int | None = None) -> CheckpointError:
        """The error that `what`, of block `index` if it is of one, is not finite."""
        return CheckpointError(
            f"{what} holds NaN or Inf {self.where}.",
            slug=self.slug,
            remedy=self.remedy,
            pointer=self.pointer,
            block=index,
        )


_EARLIER = "The weights are finite but overflow in float32: audit an earlier checkpoint of this run."

CHECKPOINT = Blame("on the calibration tokens", "checkpoint-not-finite", _EARLIER, "/checkpoint")
"""The audited network."""

SOLVED = Blame(
    "in a network that was solved anew: its solver diverged",
    "solver-diverged",
    "Lower options.block_learning_rate, options.network_learning_rate or options.rhos.",
    "/options",
)
"""A network with something that a solver made."""


def _changed(where: str, remedy: str, pointer: str) -> Blame:
    return Blame(f"{where}, though not in the trained network", "reference-not-finite", remedy, pointer)


_DAMAGED = _changed(
    "in a copy with weight noise planted in a block",
    "Leave the positive control out (options.positive_control), or audit an earlier checkpoint of this run.",
    "/options/positive_control",
)
CARRIED = _changed(
    "in a network of which an earlier block was solved anew, left out, damaged, rounded or replaced",
    "Lower options.block_learning_rate or options.rhos, or audit an earlier checkpoint of this run.",
    "/options",
)
"""A network that has rejoined the trained one's blocks, or of which only its states are known."""


def blame_of(reference: Reference) -> Blame:
    """Where a reference has a block of its own."""
    if reference.solution is not None:
        return SOLVED
    if reference.damage is not None:
        return _DAMAGED
    if reference.baseline is not None:
        return _changed(
            f"with the baseline's block {reference.leaves} in the audited network",
            "Check that the baseline is the checkpoint that was quantised, or leave it out.",
            "/baseline",
        )
    if reference.rounds:
        return _changed(
            f"where blocks are rounded to {reference.rounded_to}", "Ask for a finer class, or for none.", "/what_if"
        )
    return _changed(f"without block {reference.leaves}", _EARLIER, "/checkpoint")


def blame_of_walk(damage: Damage | None) -> Blame:
    """Of a walk of the trained network itself, or of its copy with this damage planted."""
    return CHECKPOINT if damage is None else _DAMAGED
