"""The actors of a pool: who is there, who still starts, who leaves.

On a cluster that is shared their number grows and shrinks while they work: those asked for are taken in as they start,
those beyond go once they have finished what they had in hand.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from peelbound.service.controller import metrics
from peelbound.service.controller.cluster import WORKER_CPUS, RayFailed
from peelbound.service.controller.ray_failures import LOST_REMEDY
from peelbound.service.settings import Settings
from peelbound.workers.actor import start_worker
from peelbound.workers.errors import WorkerLost
from peelbound.workers.keys import platform_fingerprint
from peelbound.workers.results import ResultStore
from peelbound.workers.tasks import Greeting

log = logging.getLogger(__name__)

Ref = Any
"""A `ray.ObjectRef`; ray's own type is generic in what it cannot know here."""

SETTLE_SECONDS = 5.0
"""How long a pool on a shared cluster waits for further workers once it has one."""


@dataclass(eq=False)
class Member:
    """An actor of the pool."""

    actor: Any
    answer: Ref | None
    """Of its first call, while it starts."""
    leaving: bool = False
    """Whether it gets no more tasks and is given back when it has finished those that it has."""
    room: int = 0
    """Bytes that a task may take of its memory, once it has started."""
    memory: str = ""
    """What that is of."""
    compiler: str = ""
    """What it compiles blocks with."""
    unfit: bool = False
    """Whether the model of the audit in hand has no room there: it gets none of its tasks."""
    tasks: int = 0
    """In its hands."""
    work: float = 0.0
    """FLOPs of those tasks, as far as their senders said."""

    @property
    def load(self) -> tuple[float, int]:
        """What it has in hand."""
        return self.work, self.tasks

    def took(self, work: float) -> None:
        """One more task is in its hands."""
        self.tasks += 1
        self.work += work

    def gave(self, work: float) -> None:
        """One of its tasks has ended."""
        self.tasks -= 1
        self.work = self.work - work if self.tasks else 0.0  # no rounding stays behind

    def dropped(self) -> None:
        """Whatever it had in its hands is given up."""
        self.tasks, self.work = 0, 0.0


class Members:
    """Starts actors, takes them in, keeps them from outliving their controller, and gives them back."""

    def __init__(self, settings: Settings, store: ResultStore) -> None:
        """Bind; `gather` starts the actors.

        Args:
            settings: on what they run.
            store: where they put solutions.
        """
        self._settings, self._store = settings, store
        self.grain = 0
        """Sequences a pass, of all of them."""
        self._all: list[Member] = []
        self._gpu = ""
        """What all workers compute on, once one of them has said so."""
        self._compiler: str | None = None
        """What the audit's blocks are compiled with; None where they are not."""
        self._seconds = 0.0
        self._counted = time.monotonic()
        self._closed = threading.Event()
        self._holding: threading.Thread | None = None

    @property
    def everyone(self) -> list[Member]:
        """Whoever is there: at work, starting or leaving."""
        return list(self._all)

    @property
    def ready(self) -> list[Member]:
        """Those that take tasks now."""
        return [m for m in self._all if m.answer is None and not m.leaving and not m.unfit]

    @property
    def shared(self) -> bool:
        """Whether the cluster is others' too."""
        return self._settings.ray_address is not None

    @property
    def gpu(self) -> str:
        """The kind of GPU that all of them have; empty on CPUs, and until one has said so."""
        return self._gpu

    @property
    def seconds(self) -> float:
        """Time that they were there to be used, of all of them together."""
        self._count()
        return self._seconds

    def _count(self) -> None:
        """To be called before any of them becomes ready or ceases to be."""
        now = time.monotonic()
        self._seconds += len(self.ready) * (now - self._counted)
        self._counted = now

    def gather(self, grain: int, target: int, compiler: str | None = None) -> None:
        """Ask for actors with this grain, as many as `target` says with those that are there already.

        Args:
            grain: sequences a pass.
            target: how many.
            compiler: what they must compile blocks with (`compiler_fingerprint`); None where they compile none.

        Raises:
            RayError: Ray fails.
            RayFailed: one that is there compiles with another compiler.
        """
        if self.shared and self._holding is None:
            self._holding = threading.Thread(target=self._hold_leash, name="leash", daemon=True)
            self._holding.start()
        if self.grain != grain:
            self.release()
        self.grain = grain
        self._count()
        self._all = [m for m in self._all if not m.leaving and self._is_alive(m)]
        self._compiler = compiler
        for member in self._all:
            member.unfit = False
            if member.answer is None:
                self._compare_compilers(member.compiler)
        self.resize(target)

    def resize(self, target: int) -> None:
        """Have as many that are to stay as `target` says."""
        self._count()
        staying = [m for m in self._all if not m.leaving]
        for _ in range(target - len(staying)):
            gpus, leash = self._settings.worker_gpus, self._leash_seconds
            actor = start_worker(self._store, self._device, self.grain, WORKER_CPUS, gpus, leash)
            self._all.append(Member(actor, actor.greet.options(concurrency_group="control").remote()))
        # Those that wait for room go first, then those with the least in hand.
        staying.sort(key=lambda m: (m.answer is None, m.load))
        for member in staying[: max(0, len(staying) - max(target, 1))]:
            member.leaving = True
        gone = [m for m in self._all if m.leaving and not m.tasks]
        self.kill(gone)
        self._all = [m for m in self._all if m not in gone]

    def await_answers(self, check: Callable[[], None], crowded: Callable[[], bool]) -> None:
        """Wait for all that start; on a shared cluster for one of them at least.

        An actor that the cluster has no room for waits for ever, and so would every task that it is given.

        Args:
            check: raises to give up.
            crowded: whether others may have taken what the cluster has.

        Raises:
            RayFailed: they do not answer in time (slug `workers-unavailable`), or are of another platform.
            WorkerLost: all that started died.
        """
        began = time.monotonic()
        patience = self._settings.worker_start_seconds
        while starting := [m for m in self._all if m.answer is not None]:
            check()
            ray.wait([m.answer for m in starting], num_returns=len(starting), timeout=0.2)
            self.joined()
            waited = time.monotonic() - began
            if self.shared and self.ready and waited > SETTLE_SECONDS:
                return
            if waited > patience and self.shared and crowded():
                log.info("no worker has started in %.0f s: other audits have them, waiting on", waited)
                began = time.monotonic()  # what others have becomes free: this is a queue and no failure
            elif waited > patience:
                error = self._unavailable(len(starting))
                self.release()
                raise error
        if not self.ready:
            raise WorkerLost("The workers died while they started.", remedy=LOST_REMEDY)
        metrics.WORKERS.set(len(self.ready))

    def joined(self) -> list[Member]:
        """Those that have started since the last call; those that died are dropped."""
        self._count()
        starting = {m.answer: m for m in self._all if m.answer is not None}
        answered, _ = ray.wait(list(starting), num_returns=len(starting), timeout=0) if starting else ([], [])
        found = []
        for ref in answered:
            member = starting[ref]
            try:
                greeting: Greeting = ray.get(ref)
            except ActorDiedError as error:
                log.warning("a worker died while it started: %s", error)
                self._all.remove(member)
                continue
            self._compare(greeting.platform)
            self._compare_compilers(greeting.compiler)
            member.answer, member.room, member.memory = None, greeting.room, greeting.memory
            member.compiler = greeting.compiler
            found.append(member)
        return found

    def withdraw(self) -> None:
        """Ask no more for those that have not started."""
        starting = [m for m in self._all if m.answer is not None]
        self.kill(starting)
        self._all = [m for m in self._all if m not in starting]

    def release(self) -> None:
        """Give all back."""
        self._count()
        self.kill(self._all)
        self._all, self._gpu = [], ""
        metrics.WORKERS.set(0)

    def kill(self, members: Iterable[Member]) -> None:
        """End processes, whatever they do."""
        for member in members:
            ray.kill(member.actor)

    def close(self) -> None:
        """Nobody is used any more; to be called before Ray is shut down."""
        self._closed.set()
        if self._holding is not None:
            self._holding.join()

    @property
    def _device(self) -> str:
        return "cuda" if self._settings.worker_gpus else "cpu"

    @property
    def _leash_seconds(self) -> float | None:
        """A frozen controller's lease runs out; then, on a cluster that others need too, its workers end."""
        return 2 * self._settings.lease_seconds if self.shared else None

    def _hold_leash(self) -> None:
        while not self._closed.wait(self._settings.lease_seconds / 4):
            for member in self.everyone:
                with contextlib.suppress(Exception):  # whatever is wrong with it, its tasks will tell
                    member.actor.heard.options(concurrency_group="control").remote()

    def _compare(self, platform: dict[str, str]) -> None:
        """Results are kept under the controller's platform: a worker on another one must make none."""
        expected = platform_fingerprint(self._device)
        if self._device != "cpu":  # the controller's own machine may lack the device: then the first worker's counts
            self._gpu = self._gpu or platform["isa"]
            expected["isa"] = self._gpu
        differing = [
            f"{name} {platform[name]} and not {value}" for name, value in expected.items() if platform[name] != value
        ]
        if differing:
            raise self._differ(f"runs on another platform than the controller: {', '.join(differing)}")

    def _compare_compilers(self, compiler: str) -> None:
        """A worker that has none says so when it is to compile; it makes no results under another one's name."""
        if self._compiler is not None and compiler and compiler != self._compiler:
            here = self._compiler or "none"
            raise self._differ(
                f"compiles blocks with another compiler than the controller's: {compiler} and not {here}"
            )

    def _differ(self, how: str) -> RayFailed:
        self.release()
        return RayFailed(
            f"A worker {how}.",
            slug="workers-differ",
            remedy="Give all nodes of the cluster, and the controller, the same processors and the same versions of "
            "everything.",
        )

    def _unavailable(self, missing: int) -> RayFailed:
        gpus = self._settings.worker_gpus
        free = ray.available_resources()  # type: ignore[no-untyped-call] # Ray gives it no types
        return RayFailed(
            f"{missing} of {len(self._all)} workers did not start within "
            f"{self._settings.worker_start_seconds:g} s. Each asks for 1 CPU and {gpus:g} GPUs; the cluster offers "
            f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs, besides what the workers that did start "
            "have taken.",
            slug="workers-unavailable",
            remedy="Lower PEELBOUND_WORKERS or PEELBOUND_WORKER_GPUS, give the cluster more nodes, or give them more "
            "time (PEELBOUND_WORKER_START_SECONDS).",
        )

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
