"""A pool of Ray actors and the tasks in flight on them.

Tasks are handed to actors in order, their small results in the order in which they finish. Failures come out typed:
what the task itself raised, or `WorkerLost` when its process or node died.

On a cluster that is shared the pool grows and shrinks while it works: it asks for as many workers as its audit may
have now, takes them in as they start, and gives back those beyond once they have finished what they had in hand. No
result depends on who computed it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from peelbound.service.controller import metrics
from peelbound.service.controller.cluster import RAY_REMEDY, WORKER_CPUS, RayFailed, start_ray
from peelbound.service.settings import Settings
from peelbound.service.tracing import ended_span
from peelbound.workers.actor import Done, start_worker
from peelbound.workers.errors import InfrastructureError, OutOfMemory, PeelboundError, WorkerLost
from peelbound.workers.keys import platform_fingerprint
from peelbound.workers.results import ResultStore

log = logging.getLogger(__name__)

Ref = Any
"""A `ray.ObjectRef`; ray's own type is generic in what it cannot know here."""

CANCEL_SECONDS = 5.0
"""A task that has not noticed its cancellation after this long is killed with its process."""

SETTLE_SECONDS = 5.0
"""How long a pool on a shared cluster waits for further workers once it has one."""

BALANCE_SECONDS = 2.0
"""How often a pool on a shared cluster looks whether it should have more workers or fewer."""

SOLVING = frozenset({"solve_corrected", "solve_state", "refit_head"})
"""Methods whose result is stored: worth waiting for when the audit has to begin anew."""


@dataclass(eq=False)
class Member:
    """An actor of the pool."""

    actor: Any
    answer: Ref | None
    """Of its first call, while it starts."""
    leaving: bool = False
    """Whether it gets no more tasks and is given back when it has finished those that it has."""
    tasks: int = 0
    """In its hands."""
    work: float = 0.0
    """FLOPs of those tasks, as far as their senders said."""

    @property
    def load(self) -> tuple[float, int]:
        """What it has in hand."""
        return self.work, self.tasks


@dataclass(eq=False)
class Task:
    """A submitted task: its bulky results stay in Ray's object store, `done` is its small one."""

    method: str
    member: Member
    outputs: list[Ref]
    done: Ref
    then: Callable[[Done], None] | None
    work: float


def start_pool(settings: Settings, store: ResultStore, check: Callable[[], None]) -> "Pool":
    """A pool on a Ray that is started for it; see `Pool`.

    Raises:
        RayFailed: no cluster answers at `ray_address`, or a Ray of our own does not start.
    """
    start_ray(settings)
    return Pool(settings, store, check)


class Pool:
    """Actors that work for one controller, whatever audit it has."""

    def __init__(
        self,
        settings: Settings,
        store: ResultStore,
        check: Callable[[], None],
    ) -> None:
        """Bind; `start` starts the actors.

        Args:
            settings: how many, on what.
            store: where they put solutions.
            check: called a few times a second while waiting; raises to give up (cancelled, lease lost).
        """
        self._settings, self._store = settings, store
        self.check = check
        self.allowed: Callable[[], int] = lambda: settings.workers
        """How many workers the audit in hand may have now."""
        self.crowded: Callable[[], bool] = lambda: False
        """Whether others may have taken what the cluster has."""
        self.grain = 0
        self.width = settings.workers
        """Into how many shards an audit's sequences are cut: as many as it may have workers when it begins."""
        self.busy_seconds = 0.0
        self.solved = 0
        """Peel problems and heads whose solutions were stored so far."""
        self._members: list[Member] = []
        self._in_flight: dict[Ref, Task] = {}
        self._introduction: Callable[[], tuple[Any, ...]] | None = None
        self._worker_seconds = 0.0
        self._closed = threading.Event()
        self._holding: threading.Thread | None = None
        self._counted = self._balanced = time.monotonic()

    def __len__(self) -> int:
        """Workers that take tasks now."""
        return len(self._ready())

    def _ready(self) -> list[Member]:
        return [m for m in self._members if m.answer is None and not m.leaving]

    @property
    def _leash_seconds(self) -> float | None:
        """A frozen controller's lease runs out; then, on a cluster that others need too, its workers end."""
        return 2 * self._settings.lease_seconds if self._shared else None

    def _hold_leash(self) -> None:
        while not self._closed.wait(self._settings.lease_seconds / 4):
            for member in list(self._members):
                with contextlib.suppress(Exception):  # whatever is wrong with it, its tasks will tell
                    member.actor.heard.options(concurrency_group="control").remote()

    def close(self) -> None:
        """The pool is not used any more; to be called before Ray is shut down."""
        self._closed.set()
        if self._holding is not None:
            self._holding.join()

    @property
    def worker_seconds(self) -> float:
        """Time that workers were there to be used, of all of them together."""
        self._count()
        return self._worker_seconds

    def _count(self) -> None:
        now = time.monotonic()
        self._worker_seconds += len(self) * (now - self._counted)
        self._counted = now

    @property
    def _shared(self) -> bool:
        return self._settings.ray_address is not None

    def start(self, grain: int) -> None:
        """Have as many actors alive as the audit may have, with this grain; on a shared cluster, one of them at least.

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
        if self._shared and self._holding is None:
            self._holding = threading.Thread(target=self._hold_leash, name="leash", daemon=True)
            self._holding.start()
        self._introduction = None
        if self.grain != grain:
            self.release()
        self.grain = grain
        self._members = [m for m in self._members if not m.leaving and self._is_alive(m)]
        self.width = self.allowed()
        self._resize(self.width)

    def _resize(self, target: int) -> None:
        """Have as many members that are to stay as `target` says."""
        staying = [m for m in self._members if not m.leaving]
        for _ in range(target - len(staying)):
            gpus, leash = self._settings.worker_gpus, self._leash_seconds
            actor = start_worker(self._store, self._device, self.grain, WORKER_CPUS, gpus, leash)
            self._members.append(Member(actor, actor.platform.options(concurrency_group="control").remote()))
        # Those that wait for room go first, then those with the least in hand.
        staying.sort(key=lambda m: (m.answer is None, m.load))
        for member in staying[: max(0, len(staying) - max(target, 1))]:
            member.leaving = True
        self._let_go()

    @property
    def _device(self) -> str:
        return "cuda" if self._settings.worker_gpus else "cpu"

    def _let_go(self) -> None:
        gone = [m for m in self._members if m.leaving and not m.tasks]
        self._kill(gone)
        self._members = [m for m in self._members if m not in gone]

    def _await_answers(self) -> None:
        """An actor that the cluster has no room for waits for ever, and so would every task that it is given."""
        began = time.monotonic()
        patience = self._settings.worker_start_seconds
        while starting := [m for m in self._members if m.answer is not None]:
            self.check()
            ray.wait([m.answer for m in starting], num_returns=len(starting), timeout=0.2)
            self._take_answers()
            waited = time.monotonic() - began
            if self._shared and self._ready() and waited > SETTLE_SECONDS:
                return
            if waited > patience and self._shared and self.crowded():
                began = time.monotonic()  # what others have becomes free: this is a queue and no failure
            elif waited > patience:
                error = self._unavailable(len(starting))
                self.release()
                raise error
        if not self._ready():
            raise WorkerLost("The workers died while they started.", remedy=_LOST_REMEDY)
        metrics.WORKERS.set(len(self))

    def _take_answers(self) -> list[Member]:
        """The members that have started since the last call; those that died are dropped."""
        starting = {m.answer: m for m in self._members if m.answer is not None}
        answered, _ = ray.wait(list(starting), num_returns=len(starting), timeout=0) if starting else ([], [])
        joined = []
        for ref in answered:
            member = starting[ref]
            try:
                platform = _value(ref)
            except ActorDiedError as error:
                log.warning("a worker died while it started: %s", error)
                self._members.remove(member)
                continue
            self._compare(platform)
            member.answer = None
            joined.append(member)
        return joined

    def _compare(self, platform: dict[str, str]) -> None:
        """Results are kept under the controller's platform: a worker on another one must make none."""
        expected = platform_fingerprint(self._device)
        if self._device != "cpu":  # the controller's own machine may lack the device
            expected["isa"] = platform["isa"]
        differing = [
            f"{name} {platform[name]} and not {value}" for name, value in expected.items() if platform[name] != value
        ]
        if differing:
            self.release()
            raise RayFailed(
                f"A worker runs on another platform than the controller: {', '.join(differing)}.",
                slug="workers-differ",
                remedy="Give all nodes of the cluster the same processors and the same versions of everything.",
            )

    def _unavailable(self, missing: int) -> RayFailed:
        gpus = self._settings.worker_gpus
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        return RayFailed(
            f"{missing} of {len(self._members)} workers did not start within "
            f"{self._settings.worker_start_seconds:g} s. Each asks for 1 CPU and {gpus:g} GPUs; the cluster offers "
            f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs, besides what the workers that did start "
            "have taken.",
            slug="workers-unavailable",
            remedy="Lower PEELBOUND_WORKERS or PEELBOUND_WORKER_GPUS, give the cluster more nodes, or give them more "
            "time (PEELBOUND_WORKER_START_SECONDS).",
        )

    def introduce(self, introduction: Callable[[], tuple[Any, ...]]) -> None:
        """Have every worker call a method before it gets any task, also those that join later.

        Args:
            introduction: makes method and arguments.
        """
        self._introduction = introduction
        self.finish(self._introduce(self._ready()))

    def _introduce(self, members: list[Member]) -> list[Task]:
        if not members or self._introduction is None:
            return []
        method, *args = self._introduction()
        return [self._send(member, method, *args) for member in members]

    def submit(
        self,
        method: str,
        *args: Any,
        outputs: int = 0,
        shard: int | None = None,
        work: float = 0.0,
        then: Callable[[Done], None] | None = None,
    ) -> Task:
        """Send a task to an actor; to the one with the least in hand unless it is a shard's.

        Args:
            method: of `workers.actor.Worker`.
            *args: refs among them are resolved on the worker.
            outputs: how many bulky results it returns before its `Done`.
            shard: number of the shard that it works on; the same actor gets it each time, as long as it is there.
            work: its FLOPs, where solves and passes meet: of these a solve takes a hundred times as many.
            then: called with the `Done` when the task has finished.
        """
        ready = self._ready()
        if not ready:
            raise WorkerLost(f"No worker is left for {method}.", remedy=_LOST_REMEDY)
        member = min(ready, key=lambda m: m.load) if shard is None else ready[shard % len(ready)]
        return self._send(member, method, *args, outputs=outputs, work=work, then=then)

    def _send(
        self,
        member: Member,
        method: str,
        *args: Any,
        outputs: int = 0,
        work: float = 0.0,
        then: Callable[[Done], None] | None = None,
    ) -> Task:
        try:
            refs = getattr(member.actor, method).options(num_returns=outputs + 1).remote(*args)
        except RayError as error:
            raise typed(error, method) from error
        *bulky, done = refs if outputs else [refs]
        task = Task(method, member, bulky, done, then, work)
        self._in_flight[done] = task
        member.tasks += 1
        member.work += work
        metrics.TASKS_RUNNING.set(len(self._in_flight))
        return task

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
        self._balance()
        try:
            ready, _ = ray.wait(list(self._in_flight), num_returns=1, timeout=0.2)
        except RayError as error:
            raise typed(error, "waiting") from error
        for ref in ready:
            self._take(ref)

    def _take(self, ref: Ref) -> None:
        task = self._in_flight.pop(ref)
        task.member.tasks -= 1
        task.member.work = task.member.work - task.work if task.member.tasks else 0.0  # no rounding stays behind
        metrics.TASKS_RUNNING.set(len(self._in_flight))
        try:
            done = _value(ref)
        except RayError as error:
            raise typed(error, task.method) from error
        self.busy_seconds += done.seconds
        metrics.BUSY_SECONDS.inc(done.seconds)
        ended_span(f"worker.{task.method}", done.seconds, {"peelbound.stored_bytes": done.stored_bytes})
        metrics.SOLUTION_BYTES.inc(done.stored_bytes)
        self.solved += done.stored_bytes > 0
        if task.then is not None:
            task.then(done)

    def _balance(self) -> None:
        """Take in who has started, give back who has finished, and ask for what the audit may have now."""
        self._count()
        now = time.monotonic()
        if not self._shared or now - self._balanced < BALANCE_SECONDS:
            return
        self._balanced = now
        try:
            self._introduce(self._take_answers())
            self._resize(self.allowed())
            metrics.WORKERS.set(len(self))
        except RayError as error:
            raise typed(error, "the start of the workers") from error

    def salvage(self) -> None:
        """After a loss: wait for the problems that the other workers have in hand, whose solutions are stored."""
        while left := [ref for ref, task in self._in_flight.items() if task.method in SOLVING]:
            self.check()
            ready, _ = ray.wait(left, num_returns=1, timeout=0.2)
            for ref in ready:
                try:
                    self._take(ref)
                except PeelboundError as error:  # what it needs, or who had it, is lost as well
                    log.info("not salvaged: %s", error)

    def abandon(self) -> None:
        """Stop whatever is in flight: cooperatively first, then by killing the processes that did not notice."""
        self._introduction = None
        if not self._in_flight:
            return
        for member in self._members:
            member.actor.cancel.options(concurrency_group="control").remote()
        deadline = time.monotonic() + CANCEL_SECONDS
        left = list(self._in_flight)
        while left and time.monotonic() < deadline:
            _, left = ray.wait(left, num_returns=len(left), timeout=0.2)
        self._kill({self._in_flight[ref].member for ref in left})
        self._in_flight.clear()
        for member in self._members:
            member.tasks, member.work = 0, 0.0
        metrics.TASKS_RUNNING.set(0)
        for member in self._members:
            member.actor.resume.options(concurrency_group="control").remote()

    def release(self) -> None:
        """Give all workers back; `start` asks for new ones."""
        self._kill(self._members)
        self._members = []
        metrics.WORKERS.set(0)

    def _kill(self, members: Iterable[Member]) -> None:
        for member in members:
            ray.kill(member.actor)

    def _is_alive(self, member: Member) -> bool:
        if member.answer is not None:
            return True
        try:
            ray.get(member.actor.process.options(concurrency_group="control").remote(), timeout=30)
        except ActorDiedError:
            return False
        except RayError:  # slow to answer is not dead
            return True
        return True


def _value(ref: Ref) -> Any:
    return ray.get(ref)


_LOST_REMEDY = (
    "See the kernel's log on its node: if it was killed for lack of memory, lower PEELBOUND_WORKERS, options.grain or "
    "calibration.sequence_length. What is solved is not solved again."
)


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
        return WorkerLost(f"A worker died during {method}.", remedy=_LOST_REMEDY)
    return RayFailed(f"Ray failed during {method}: {error}", remedy=RAY_REMEDY)
