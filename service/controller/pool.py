"""A pool of Ray actors and the tasks in flight on them.

Tasks are handed to actors in order, their small results in the order in which they finish. Failures come out typed:
what the task itself raised, or `WorkerLost` when its process or node died. One for which its actor had too little
memory moves to a larger one, and what waits for it moves along. How many actors there are is `members`' affair, who
suits a task `placement`'s; no result depends on who computed it.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from peelbound.service.controller import metrics
from peelbound.service.controller.cluster import own_workers, start_ray
from peelbound.service.controller.members import Member, Members, Ref
from peelbound.service.controller.placement import Placement
from peelbound.service.controller.ray_failures import LOST_REMEDY, typed
from peelbound.service.settings import Settings
from peelbound.service.tracing import ended_span
from peelbound.workers.errors import DoesNotFit, PeelboundError, WorkerLost
from peelbound.workers.results import ResultStore
from peelbound.workers.tasks import Done

log = logging.getLogger(__name__)

CANCEL_SECONDS = 5.0
"""A task that has not noticed its cancellation after this long is killed with its process."""

BALANCE_SECONDS = 2.0
"""How often a pool on a shared cluster looks whether it should have more workers or fewer."""

SOLVING = frozenset({"solve_corrected", "solve_state", "refit_head"})
"""Methods whose result is stored: worth waiting for when the audit has to begin anew."""


@dataclass(eq=False)
class Output:
    """A bulky result of a task, in Ray's object store; another object once the task has moved."""

    task: "Task"
    ref: Ref


@dataclass(eq=False)
class Task:
    """A submitted task."""

    method: str
    args: tuple[Any, ...]
    """Outputs of other tasks, refs and plain values; nothing once it has ended: outputs keep states in memory."""
    member: Member
    shard: int | None
    work: float
    then: Callable[[Done], None] | None
    introduces: bool = False
    """Whether it is the member's introduction, and nobody else's affair."""
    outputs: list[Output] = field(default_factory=list)
    sent: tuple[Any, ...] = ()
    """The arguments as they were when it was sent."""
    done: Ref = None
    """Of its small result."""

    def current(self) -> tuple[Any, ...]:
        """The arguments as they are now."""
        return tuple(arg.ref if isinstance(arg, Output) else arg for arg in self.args)


def start_pool(settings: Settings, store: ResultStore, check: Callable[[], None]) -> "Pool":
    """A pool on a Ray that is started for it; see `Pool`.

    Raises:
        RayFailed: no cluster answers at `ray_address`, or a Ray of our own does not start.
    """
    start_ray(settings, check)
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
        self.check = check
        self.allowed: Callable[[], int] = lambda: own_workers(settings)
        """How many workers the audit in hand may have now."""
        self.crowded: Callable[[], bool] = lambda: False
        """Whether others may have taken what the cluster has."""
        self.width = own_workers(settings)
        """Into how many shards an audit's sequences are cut: as many as it may have workers when it begins."""
        self.busy_seconds = 0.0
        self.solved = 0
        """Peel problems and heads whose solutions were stored so far."""
        self._members = Members(settings, store)
        self._in_flight: dict[Ref, Task] = {}
        self._introduction: Callable[[], tuple[Any, ...]] | None = None
        self._placement = Placement()
        self._balanced = time.monotonic()

    def __len__(self) -> int:
        """Workers that take tasks now."""
        return len(self._members.ready)

    @property
    def asked_for(self) -> int:
        """Workers that it has or waits for."""
        return len(self._members.everyone)

    @property
    def gpu(self) -> str:
        """The kind of GPU that the workers have; empty on CPUs, and until one of them has said so."""
        return self._members.gpu

    @property
    def grain(self) -> int:
        """Sequences a pass."""
        return self._members.grain

    @property
    def worker_seconds(self) -> float:
        """Time that workers were there to be used, of all of them together."""
        return self._members.seconds

    def start(self, grain: int, compiler: str | None = None) -> None:
        """Have as many actors alive as the audit may have, with this grain; on a shared cluster, one of them at least.

        Args:
            grain: sequences a pass.
            compiler: what results are kept under where blocks are compiled: workers with another one are refused.

        Raises:
            RayFailed: they do not answer in time (slug `workers-unavailable`), are not like the controller (slug
                `workers-differ`), or Ray fails.
            WorkerLost: one died while it started.
        """
        self._introduction = None
        try:
            self.width = self.allowed()
            self._members.gather(grain, self.width, compiler)
            self._members.await_answers(self.check, self.crowded)
        except RayError as error:
            raise typed(error, "the start of the workers") from error
        except PeelboundError:
            self._members.withdraw()  # or they start some day, and hold the cluster for nobody
            raise

    def expect(self, placement: Placement) -> None:
        """What the tasks to come need; what was learned of the same needs before still holds."""
        if placement != self._placement:
            self._placement = placement

    def introduce(self, introduction: Callable[[], tuple[Any, ...]]) -> None:
        """Have every worker call a method before it gets any task, also those that join later.

        Args:
            introduction: makes method and arguments.
        """
        self._introduction = introduction
        self.finish(self._introduce(self._members.ready))

    def _introduce(self, members: list[Member]) -> list[Task]:
        if not members or self._introduction is None:
            return []
        method, *args = self._introduction()
        tasks = [Task(method, tuple(args), member, None, 0.0, None, introduces=True) for member in members]
        for task in tasks:
            self._send(task, task.member)
        return tasks

    def submit(
        self,
        method: str,
        *args: Any,
        outputs: int = 0,
        shard: int | None = None,
        work: float = 0.0,
        then: Callable[[Done], None] | None = None,
    ) -> Task:
        """Send a task to an actor that has the memory for it; to the one with the least in hand unless it is a shard's.

        Args:
            method: of `workers.actor.Worker`.
            *args: refs and outputs of other tasks among them are resolved on the worker.
            outputs: how many bulky results it returns before its `Done`.
            shard: number of the shard that it works on; the same actor gets it each time, as long as it is there.
            work: its FLOPs, where solves and passes meet: of these a solve takes a hundred times as many.
            then: called with the `Done` when the task has finished.
        """
        member = self._chosen(method, shard, self._placement.suited(method, self._members.ready))
        task = Task(method, args, member, shard, work, then)
        task.outputs = [Output(task, None) for _ in range(outputs)]
        self._send(task, member)
        return task

    def _chosen(self, method: str, shard: int | None, members: list[Member]) -> Member:
        if not members:
            raise WorkerLost(f"No worker is left for {method}.", remedy=LOST_REMEDY)
        return min(members, key=lambda m: m.load) if shard is None else members[shard % len(members)]

    def _send(self, task: Task, member: Member) -> None:
        task.member, task.sent = member, task.current()
        try:
            refs = getattr(member.actor, task.method).options(num_returns=len(task.outputs) + 1).remote(*task.sent)
        except RayError as error:
            raise typed(error, task.method) from error
        *bulky, task.done = refs if task.outputs else [refs]
        for output, ref in zip(task.outputs, bulky, strict=True):
            output.ref = ref
        self._in_flight[task.done] = task
        member.took(task.work)
        metrics.TASKS_RUNNING.set(len(self._in_flight))

    def finish(self, tasks: Iterable[Task]) -> None:
        """Wait until these tasks have finished; others that finish meanwhile are taken in too."""
        waiting = list(tasks)
        while any(task.done in self._in_flight for task in waiting):
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
        task.member.gave(task.work)
        metrics.TASKS_RUNNING.set(len(self._in_flight))
        try:
            done: Any = ray.get(ref)  # its stubs take an Any for a list
        except RayError as error:
            failure = typed(error, task.method)
            if not isinstance(failure, DoesNotFit):
                raise failure from error
            self._again(task, failure)
            return
        task.args = task.sent = ()
        self.busy_seconds += done.seconds
        metrics.BUSY_SECONDS.inc(done.seconds)
        ended_span(f"worker.{task.method}", done.seconds, {"peelbound.stored_bytes": done.stored_bytes})
        metrics.SOLUTION_BYTES.inc(done.stored_bytes)
        self.solved += done.stored_bytes > 0
        if task.then is not None:
            task.then(done)

    def _again(self, task: Task, failure: DoesNotFit) -> None:
        """Send a task again that did not fit, or that was to get what one that did not fit should have left."""
        for producer in {arg.task for arg in task.args if isinstance(arg, Output)}:
            # It has ended before this one, and may not have been taken in yet.
            if producer.done in self._in_flight and task.sent == task.current():
                self._take(producer.done)
        if task.sent != task.current():
            members = self._placement.suited(task.method, self._members.ready)
        elif task.introduces:
            log.warning("a worker is left out: %s", failure)
            task.member.unfit = True
            if not self._members.ready:
                raise self._placement.ended(task.method, failure, task.member)
            return
        else:
            members = self._placement.move(task.method, failure, task.member, self._members.ready)
            log.warning("%s moves to a larger memory: %s", task.method, failure)
        self._send(task, self._chosen(task.method, task.shard, members))

    def _balance(self) -> None:
        """Take in who has started, give back who has finished, and ask for what the audit may have now."""
        now = time.monotonic()
        if not self._members.shared or now - self._balanced < BALANCE_SECONDS:
            return
        self._balanced = now
        try:
            self._introduce(self._members.joined())
            self._members.resize(self.allowed())
            metrics.WORKERS.set(len(self))
        except RayError as error:
            raise typed(error, "the start of the workers") from error

    def salvage(self) -> None:
        """After a loss: wait for the problems that the other workers have in hand, whose solutions are stored.

        Raises:
            RayFailed: Ray fails, maybe of what the worker was lost of.
        """
        while left := [ref for ref, task in self._in_flight.items() if task.method in SOLVING]:
            self.check()
            try:
                ready, _ = ray.wait(left, num_returns=1, timeout=0.2)
            except RayError as error:
                raise typed(error, "waiting") from error
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
        for member in self._members.everyone:
            member.actor.cancel.options(concurrency_group="control").remote()
        deadline = time.monotonic() + CANCEL_SECONDS
        left = list(self._in_flight)
        while left and time.monotonic() < deadline:
            _, left = ray.wait(left, num_returns=len(left), timeout=0.2)
        self._members.kill({self._in_flight[ref].member for ref in left})
        self._in_flight.clear()
        metrics.TASKS_RUNNING.set(0)
        for member in self._members.everyone:
            member.dropped()
            member.actor.resume.options(concurrency_group="control").remote()

    def release(self) -> None:
        """Give all workers back; `start` asks for new ones."""
        self._members.release()

    def close(self) -> None:
        """The pool is not used any more; to be called before Ray is shut down."""
        self._members.close()
