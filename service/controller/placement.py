"""Who gets which task by the memory that it takes, and what becomes of one for which there was not enough. Pure."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from peelbound.workers.errors import DoesNotFit, OutOfMemory, PeelboundError

LARGER = 1.05
"""One memory is larger than another from this ratio on; less is what happened to be free."""


class Roomy(Protocol):
    """Whoever has memory."""

    room: int
    """Bytes that a task may take."""
    memory: str
    """What it is of, for people."""


R = TypeVar("R", bound=Roomy)


class Placement:
    """What each kind of task needs: beforehand by the plan's formula, then by what was seen to be too little."""

    def __init__(self, least: int = 0, by_method: Mapping[str, int] | None = None) -> None:
        """Nothing was seen yet.

        Args:
            least: bytes that every task takes.
            by_method: of those methods that take more.
        """
        self.least, self.by_method = least, dict(by_method or {})
        self._learned: dict[str, int] = {}

    def __eq__(self, other: object) -> bool:
        """Whether the formulae say the same: it is the same audit's, and what was learned holds."""
        return isinstance(other, Placement) and (self.least, self.by_method) == (other.least, other.by_method)

    def need(self, method: str) -> int:
        """Bytes that a task takes, as far as is known."""
        return max(self.by_method.get(method, self.least), self._learned.get(method, 0))

    def suited(self, method: str, ready: Sequence[R]) -> list[R]:
        """Those on which a task fits; where it fits nowhere, those with the largest memory."""
        need = self.need(method)
        return [m for m in ready if m.room >= need] or _largest(ready)

    def move(self, method: str, failure: DoesNotFit, failed: R, ready: Sequence[R]) -> list[R]:
        """Where a task goes for which a member had too little; no other of its kind is given to such a one again.

        Args:
            method: its kind.
            failure: what the member said.
            failed: the member.
            ready: who takes tasks, in any order.

        Raises:
            DoesNotFit: nobody has more.
            OutOfMemory: nobody has more, and what it took is less than what there should be: others have it.
        """
        larger = [m for m in ready if m.room > LARGER * failed.room]
        if not larger:
            raise self.ended(method, failure, failed)
        needed = int(failure.extra.get("bytes_needed", 0))
        self._learned[method] = max(self._learned.get(method, 0), needed, int(LARGER * failed.room) + 1)
        return self.suited(method, larger)

    def ended(self, method: str, failure: DoesNotFit, failed: Roomy) -> PeelboundError:
        """What the audit ends with, where nobody has more memory than the member that failed."""
        measured, planned = int(failure.extra.get("bytes_needed", 0)), self.by_method.get(method, self.least)
        taken = f"{method} does not fit with one grain on the device. {failure.detail}"
        if measured <= failed.room and planned <= failed.room:
            return OutOfMemory(
                f"{taken} The plan's formula says {planned:,}: something else on that node has the rest.",
                remedy="End what else runs on the node or its GPU, or lower PEELBOUND_WORKERS.",
                bytes_needed=max(measured, planned),
                bytes_available=failed.room,
            )
        by = "by the plan's formula" if planned > measured else "by what it held and asked for"
        return DoesNotFit(
            f"{taken} It needs {max(measured, planned):,} bytes ({by}), and no worker has a larger memory than "
            f"{failed.room:,} ({failed.memory}).",
            remedy="Lower options.grain or calibration.sequence_length, or give the workers larger devices: more of a "
            "GPU (PEELBOUND_WORKER_GPUS), or nodes with more memory.",
            bytes_needed=max(measured, planned),
            bytes_available=failed.room,
        )


def _largest(ready: Sequence[R]) -> list[R]:
    most = max((m.room for m in ready), default=0)
    return [m for m in ready if LARGER * m.room >= most]
