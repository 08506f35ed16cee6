"""A pool of Ray actors and the tasks in flight on them.

Tasks are handed to actors in order, their small results in the order in which they finish. Failures come out typed:
what the task itself raised, or `WorkerLost` when its process or node died.
"""

import atexit
import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from peelbound.service.controller import metrics
from peelbound.service.settings import Settings
from peelbound.workers.actor import Done, start_worker
from peelbound.workers.errors import InfrastructureError, OutOfMemory, PeelboundError, WorkerLost
from peelbound.workers.results import ResultStore

Ref = Any
"""A `ray.ObjectRef`; ray's own type is generic in what it cannot know here."""

CANCEL_SECONDS = 5.0
"""A task that has not noticed its cancellation after this long is killed with its process."""

START_SECONDS = 120.0
"""Workers that have not answered after this long are taken not to start: the cluster lacks what they ask for."""

_REMEDY = "Ray is started afresh for the next attempt. If this goes on, look at its logs and at PEELBOUND_RAY_ADDRESS."


class RayFailed(InfrastructureError):
    """Ray itself failed, or does not start the workers: it is to be started afresh."""

    slug = "ray-error"
    title = "The cluster failed"


@dataclass(eq=False)
class Task:
    """A submitted task: its bulky results stay in Ray's object store, `done` is its small one."""

    method: str
    worker: int
    outputs: list[Ref]
    done: Ref
    then: Callable[[Done], None] | None


def start_pool(settings: Settings, store: ResultStore, check: Callable[[], None]) -> "Pool":
    """A pool on a Ray that is started for it; see `Pool`.

    Raises:
        RayFailed: no cluster answers at `ray_address`, or a Ray of our own does not start.
    """
    try:
        start_ray(settings)
    except Exception as error:  # `ray.init` raises all sorts, a plain Exception when a node is slow to start
        where = f"No Ray cluster answers at {settings.ray_address}" if settings.ray_address else "Ray does not start"
        raise RayFailed(f"{where}: {error}", remedy=_REMEDY) from error
    return Pool(settings, store, check)


def start_ray(settings: Settings) -> None:
    """Connect to the cluster at `ray_address`, or start a Ray of our own on this machine, bound to loopback."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # they are those of abandoned tasks
    # Ray puts the working directory first on its workers' import path, where a user's own peelbound.py would hide us,
    # and its processes stay in it: start it where there is nothing.
    nothing = tempfile.mkdtemp(prefix="peelbound-ray-")
    atexit.register(shutil.rmtree, nothing, ignore_errors=True)
    with contextlib.chdir(nothing), _signals_kept():
        if settings.ray_address:
            ray.init(address=settings.ray_address, log_to_driver=False)
            return
        # Wherever clusters are possible Ray takes 127.0.0.1 for the machine's own address, and listens on all it has.
        ray_constants.ENABLE_RAY_CLUSTER = False
        ray.init(
            address="local",  # or Ray joins whatever cluster it finds on this machine
            num_cpus=settings.workers,
            object_store_memory=settings.ray_object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """`ray.init` takes SIGTERM for itself and would exit at once; a controller first hands its audit back."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is not handler:  # only the main thread's handlers are Ray's to take
            signal.signal(signal.SIGTERM, handler)


class Pool:
    """Actors that work for one controller, whatever audit it has."""

    def __init__(
        self,
        settings: Settings,
        store: ResultStore,
        check: Callable[[], None],
        start_seconds: float = START_SECONDS,
    ) -> None:
        """Bind; `start` starts the actors.

        Args:
            settings: how many, on what.
            store: where they put solutions.
            check: called a few times a second while waiting; raises to give up (cancelled, lease lost).
            start_seconds: how long the actors may take to start.
        """
        self._settings, self._store, self._start_seconds = settings, store, start_seconds
        self.check = check
        self.grain = 0
        self.busy_seconds = 0.0
        self._actors: list[Any] = []
        self._in_flight: dict[Ref, Task] = {}

    def __len__(self) -> int:
        return self._settings.workers

    def start(self, grain: int) -> None:
        """Have every actor alive, with this grain.

        Raises:
            RayFailed: they do not answer in time (slug `workers-unavailable`), or Ray fails.
            WorkerLost: one died while it started.
        """
        try:
            self._start(grain)
            self._await_answers()
        except RayError as error:
            raise typed(error, "the start of the workers") from error

    def _start(self, grain: int) -> None:
        if self.grain != grain:
            self._kill(self._actors)
            self._actors, self.grain = [], grain
        alive = [self._is_alive(actor) for actor in self._actors]
        self._actors = [actor for actor, well in zip(self._actors, alive, strict=True) if well]
        device = "cuda" if self._settings.worker_gpus else "cpu"
        while len(self._actors) < len(self):
            self._actors.append(start_worker(self._store, device, grain, 1, self._settings.worker_gpus))

    def _await_answers(self) -> None:
        """An actor that the cluster has no room for waits for ever, and so would every task that it is given."""
        answers = [actor.process.options(concurrency_group="control").remote() for actor in self._actors]
        deadline = time.monotonic() + self._start_seconds
        left = answers
        while left:
            self.check()
            _, left = ray.wait(left, num_returns=len(left), timeout=0.2)
            if left and time.monotonic() > deadline:
                error = self._unavailable(len(left))
                self._kill(self._actors)
                self._actors = []
                raise error
        ray.get(answers)
        metrics.WORKERS.set(len(self._actors))

    def _unavailable(self, missing: int) -> RayFailed:
        gpus = self._settings.worker_gpus
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        return RayFailed(
            f"{missing} of {len(self)} workers did not start within {self._start_seconds:g} s. Each asks for 1 CPU and "
            f"{gpus:g} GPUs; the cluster offers {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs, besides "
            "what the workers that did start have taken.",
            slug="workers-unavailable",
            remedy="Lower PEELBOUND_WORKERS or PEELBOUND_WORKER_GPUS, or give the cluster more nodes.",
        )

    def submit(
        self,
        method: str,
        *args: Any,
        outputs: int = 0,
        worker: int | None = None,
        then: Callable[[Done], None] | None = None,
    ) -> Task:
        """Send a task to an actor; to the one with the least in hand unless `worker` says which.

        Args:
            method: of `workers.actor.Worker`.
            *args: refs among them are resolved on the worker.
            outputs: how many bulky results it returns before its `Done`.
            worker: which actor.
            then: called with the `Done` when the task has finished.
        """
        if worker is None:
            load = [0] * len(self)
            for task in self._in_flight.values():
                load[task.worker] += 1
            worker = load.index(min(load))
        try:
            refs = getattr(self._actors[worker], method).options(num_returns=outputs + 1).remote(*args)
        except RayError as error:
            raise typed(error, method) from error
        *bulky, done = refs if outputs else [refs]
        task = Task(method, worker, bulky, done, then)
        self._in_flight[done] = task
        metrics.TASKS_RUNNING.set(len(self._in_flight))
        return task

    def broadcast(self, method: str, *args: Any) -> None:
        """Run a method on every actor and wait."""
        self.finish([self.submit(method, *args, worker=w) for w in range(len(self))])

    def finish(self, tasks: Iterable[Task]) -> None:
        """Wait until these tasks have finished; others that finish meanwhile are taken in too."""
        waiting = {task.done for task in tasks}
        while waiting & self._in_flight.keys():
            self._take_one()

    def finish_all(self, but: int = 0) -> None:
        """Wait until at most `but` tasks are in flight."""
        while len(self._in_flight) > but:
            self._take_one()

    def _take_one(self) -> None:
        self.check()
        try:
            ready, _ = ray.wait(list(self._in_flight), num_returns=1, timeout=0.2)
        except RayError as error:
            raise typed(error, "waiting") from error
        for ref in ready:
            task = self._in_flight.pop(ref)
            metrics.TASKS_RUNNING.set(len(self._in_flight))
            try:
                done: Done = ray.get(ref)
            except RayError as error:
                raise typed(error, task.method) from error
            self.busy_seconds += done.seconds
            metrics.BUSY_SECONDS.inc(done.seconds)
            metrics.SOLUTION_BYTES.inc(done.stored_bytes)
            if task.then is not None:
                task.then(done)

    def abandon(self) -> None:
        """Stop whatever is in flight: cooperatively first, then by killing the processes that did not notice."""
        if not self._in_flight:
            return
        for actor in self._actors:
            actor.cancel.options(concurrency_group="control").remote()
        deadline = time.monotonic() + CANCEL_SECONDS
        left = list(self._in_flight)
        while left and time.monotonic() < deadline:
            _, left = ray.wait(left, num_returns=len(left), timeout=0.2)
        self._kill({self._in_flight[ref].worker: self._actors[self._in_flight[ref].worker] for ref in left}.values())
        self._in_flight.clear()
        metrics.TASKS_RUNNING.set(0)
        for actor in self._actors:
            actor.resume.options(concurrency_group="control").remote()

    def _kill(self, actors: Iterable[Any]) -> None:
        for actor in actors:
            ray.kill(actor)

    def _is_alive(self, actor: Any) -> bool:
        try:
            ray.get(actor.process.options(concurrency_group="control").remote(), timeout=30)
        except ActorDiedError:
            return False
        except RayError:  # slow to answer is not dead
            return True
        return True


def typed(error: RayError, method: str) -> PeelboundError:
    """Our own error behind one of Ray's, met during `method`."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, PeelboundError):
            return cause
        if isinstance(cause, MemoryError) or "out of memory" in str(cause).lower():
            return OutOfMemory(f"{method}: {cause}", remedy="Lower options.grain or calibration.sequence_length.")
        return InfrastructureError(
            f"{method} failed on a worker: {type(cause).__name__}: {cause}",
            slug="worker-error",
            remedy="Report it with the controller's log.",
        )
    if isinstance(error, OutOfMemoryError):
        return OutOfMemory(
            f"{method}: the node ran out of memory.", remedy="Lower options.grain or give the node more memory."
        )
    if isinstance(error, ActorDiedError | ActorUnavailableError | ObjectLostError):
        return WorkerLost(
            f"A worker died during {method}.",
            remedy="See the kernel's log on its node: if it was killed for lack of memory, lower PEELBOUND_WORKERS, "
            "options.grain or calibration.sequence_length. What is solved is not solved again.",
        )
    return RayFailed(f"Ray failed during {method}: {error}", remedy=_REMEDY)
