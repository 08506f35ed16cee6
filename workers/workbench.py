"""What the tasks of one worker share: the model that they work on, its memory, where solutions go, the word to stop."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from peelbound.workers.blocks import Blocks
from peelbound.workers.errors import Cancelled, DoesNotFit
from peelbound.workers.heap import Heap
from peelbound.workers.memory import fitted, memory_of
from peelbound.workers.quantisers.weight_class import FULL_PRECISION, WeightClass
from peelbound.workers.results import ResultStore
from peelbound.workers.skeleton import Skeleton

T = TypeVar("T")

ONE_GRAIN = (1, 1)
"""Of work that has one grain at a time on the device as it is: there is only a second try with nothing beside it."""


class Workbench:
    """Base of the tasks of a worker: one model at a time, one task at a time.

    Attributes:
        skeleton: the model without its blocks; from `lay_out` on.
        blocks: makes its blocks; from `lay_out` on.
        store: where solutions go.
        device: where everything is computed.
        grain: sequences a pass.
        memory: of the device.
    """

    skeleton: Skeleton
    blocks: Blocks

    def __init__(self, store: ResultStore, device: torch.device, grain: int, share: float = 1.0) -> None:
        """Lay nothing out yet; `share` is what this worker may have of its device, if that is a GPU."""
        self.store, self.device, self.grain = store, device, grain
        self._stop = threading.Event()
        self._heap = Heap()
        self.memory = memory_of(device, share, self._heap)
        self._fits: dict[str, int] = {}
        self._refusal: DoesNotFit | None = None

    def lay_out(self, build: Callable[[], Skeleton], weights: WeightClass = FULL_PRECISION) -> None:
        """Work on another model from now on, whose blocks are of this weight class.

        Raises:
            DoesNotFit: there is no room for its parts outside the blocks; all tasks raise it from then on.
        """
        self.__dict__.pop("blocks", None)  # there may be no room for two
        self.__dict__.pop("skeleton", None)
        self._heap.settle()
        self._fits.clear()
        self._refusal = None
        try:
            self.skeleton = self.fitted("prepare", ONE_GRAIN, lambda _: build())
        except DoesNotFit as error:
            self._refusal = DoesNotFit(error.detail, remedy=error.remedy, **error.extra)
            raise
        self.blocks = Blocks(self.skeleton, weights, self.store)

    def begin(self) -> float:
        """When this task starts (`time.perf_counter`); what the one before it has left behind is gone by then.

        Raises:
            DoesNotFit: the model did not.
        """
        if self._refusal is not None:
            raise self._refusal
        self._heap.settle()
        return time.perf_counter()

    def fitted(self, task: str, choices: Sequence[int], work: Callable[[int], T]) -> T:
        """Work of a task with as many grains resident as fit; what fitted once is where the next one begins.

        Args:
            task: its name.
            choices: see `memory.fitted`.
            work: the same.

        Raises:
            DoesNotFit: not with one grain.
        """
        most = self._fits.get(task, choices[0])
        allowed = [choice for choice in choices if choice <= most] or choices[-1:]
        found, resident = fitted(task, self.memory, allowed, work)
        if resident < choices[0]:
            self._fits[task] = resident
        return found

    def one_grain(self, task: str, work: Callable[[], T]) -> T:
        """The same of work that has one grain at a time on the device as it is."""
        return self.fitted(task, ONE_GRAIN, lambda _: work())

    def on_step(self, step: int) -> None:  # noqa: ARG002 - the solver's signature
        """To be called between steps.

        Raises:
            Cancelled: the audit was cancelled.
        """
        if self._stop.is_set():
            raise Cancelled("The audit was cancelled.")
