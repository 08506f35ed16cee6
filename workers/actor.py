"""The Ray actor: holds the skeleton of one model and executes passes and solves that the controller sends.

It keeps nothing that counts: solutions go to object storage, states to Ray's object store, owned by the controller.
Here is its life; its tasks are those of `pass_tasks` and `solve_tasks`, which know nothing of Ray.
"""

import os
import time
from typing import Any

from peelbound.workers.importing import large_imports

with large_imports():
    import ray
    import torch

    from peelbound.workers.architecture import Architecture
    from peelbound.workers.checkpoint.part import Part
    from peelbound.workers.keys import compiler_fingerprint, platform_fingerprint
    from peelbound.workers.leash import Leash
    from peelbound.workers.pass_tasks import PassTasks
    from peelbound.workers.quantisers.weight_class import FULL_PRECISION, WeightClass
    from peelbound.workers.recipes import FLOAT32, Arithmetic
    from peelbound.workers.results import ResultStore
    from peelbound.workers.skeleton import Skeleton
    from peelbound.workers.solve_tasks import SolveTasks
    from peelbound.workers.tasks import Done, Greeting
    from peelbound.workers.threads import THREADS

_ENVIRONMENT = {
    "OMP_NUM_THREADS": str(THREADS),
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # compilation, too, stays within the actor's one CPU
    "HF_HUB_OFFLINE": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on CUDA
}


class Worker(PassTasks, SolveTasks):
    """One process of the pool. Methods are called one at a time, except those of the control group, which interrupt."""

    def __init__(
        self, store: ResultStore, device: str, grain: int, share: float = 1.0, leash_seconds: float | None = None
    ) -> None:
        torch.set_num_threads(THREADS)
        torch.use_deterministic_algorithms(True)
        super().__init__(store, torch.device(device), grain, share)
        self._leash = None if leash_seconds is None else Leash(leash_seconds)
        if self._leash is not None:
            self._leash.start()

    def prepare(
        self,
        config: dict[str, Any],
        rest: Part,
        weights: WeightClass = FULL_PRECISION,
        arithmetic: Arithmetic = FLOAT32,
    ) -> Done:
        """Build the skeleton of the model to be audited, whose blocks are of this weight class, computed so.

        Raises:
            DoesNotFit: this worker has no room for it, and so for no task either.
        """
        start = time.perf_counter()
        architecture = Architecture.from_config_json(config)
        self.lay_out(lambda: Skeleton(architecture, rest.tensors(), self.device, arithmetic), weights)
        return Done(time.perf_counter() - start)

    def resume(self) -> None:
        """Take tasks again after `cancel`."""
        self._stop.clear()

    def cancel(self) -> None:
        """Make the task in hand, and all that wait behind it, raise `Cancelled` at its next step."""
        self._stop.set()

    def heard(self) -> None:
        """The controller is alive; without a word for `leash_seconds` this process ends."""
        if self._leash is not None:
            self._leash.heard()

    def process(self) -> int:
        """The process id."""
        return os.getpid()

    def greet(self) -> Greeting:
        """What this worker is; the answer also says that everything is imported."""
        device = self.device.type
        return Greeting(
            platform_fingerprint(device), self.memory.room(), self.memory.name, compiler_fingerprint(device)
        )


def start_worker(
    store: ResultStore, device: str, grain: int, cpus: float, gpus: float, leash_seconds: float | None = None
) -> Any:
    """Start one actor of the pool; cancellation reaches it while it works."""
    remote: Any = ray.remote  # its stubs lack concurrency_groups
    actor = remote(concurrency_groups={"control": 1})(Worker).options(
        num_cpus=cpus,
        num_gpus=gpus,
        max_restarts=0,
        max_task_retries=0,
        runtime_env={"env_vars": _ENVIRONMENT},
    )
    return actor.remote(store, device, grain, gpus or 1.0, leash_seconds)
