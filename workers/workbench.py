"""What the tasks of one worker share: the model that they work on, where solutions go, and the word to stop."""

import threading
import time

from peelbound.workers.blocks import Blocks
from peelbound.workers.errors import Cancelled
from peelbound.workers.heap import Heap
from peelbound.workers.quantisers.weight_class import WeightClass
from peelbound.workers.results import ResultStore
from peelbound.workers.skeleton import Skeleton


class Workbench:
    """Base of the tasks of a worker: one model at a time, one task at a time.

    Attributes:
        skeleton: the model without its blocks; from `lay_out` on.
        blocks: makes its blocks; from `lay_out` on.
        store: where solutions go.
        grain: sequences a pass.
    """

    skeleton: Skeleton
    blocks: Blocks

    def __init__(self, store: ResultStore, grain: int) -> None:
        self.store, self.grain = store, grain
        self._stop = threading.Event()
        self._heap = Heap()

    def lay_out(self, skeleton: Skeleton, weights: WeightClass) -> None:
        """Work on this model, whose blocks are of this weight class, from now on."""
        self.skeleton, self.blocks = skeleton, Blocks(skeleton, weights, self.store)

    def begin(self) -> float:
        """When this task starts (`time.perf_counter`); what the one before it has left behind is gone by then."""
        self._heap.settle()
        return time.perf_counter()

    def on_step(self, step: int) -> None:  # noqa: ARG002 - the solver's signature
        """To be called between steps.

        Raises:
            Cancelled: the audit was cancelled.
        """
        if self._stop.is_set():
            raise Cancelled("The audit was cancelled.")
