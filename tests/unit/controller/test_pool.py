"""A pool whose Ray runs each task when its result is asked for: what fits where, what moves, and what moves along."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from ray.exceptions import RaySystemError, RayTaskError

from peelbound.service.controller import members, pool
from peelbound.service.controller.cluster import RayFailed
from peelbound.service.controller.placement import Placement
from peelbound.service.controller.pool import Output, Pool, Task
from peelbound.service.settings import Settings
from peelbound.service.storage.directory import DirectoryStore
from peelbound.workers.errors import Cancelled, DoesNotFit
from peelbound.workers.keys import platform_fingerprint
from peelbound.workers.tasks import Done, Greeting


@dataclass(eq=False)
class Ref:
    """An object that is there at once: a value, or the error of the task that should have left it."""

    value: Any


@dataclass
class Actor:
    """Runs tasks of the form `takes_<bytes>`; each leaves its own arguments, put together."""

    room: int
    did: list[str] = field(default_factory=list)
    compiler: str = ""

    def __getattr__(self, method: str) -> Any:
        return lambda *args, outputs=0: self.call(method, args, outputs)

    def call(self, method: str, args: tuple[Any, ...], outputs: int) -> list[Ref]:
        values = [arg.value if isinstance(arg, Ref) else arg for arg in args]
        failed = next((v for v in values if isinstance(v, RayTaskError)), None)
        if failed is None:
            failed = self.work(method)
        if failed is not None:
            return [Ref(failed)] * (outputs + 1)
        if method == "greet":
            return [Ref(Greeting(platform_fingerprint("cpu"), self.room, f"{self.room} bytes", self.compiler))]
        self.did.append(f"{method}({', '.join(map(str, values))})")
        return [*([Ref(self.did[-1])] * outputs), Ref(Done(0.0))]

    def work(self, method: str) -> RayTaskError | None:
        need = int(method.removeprefix("takes_")) if method.startswith("takes_") else 0
        if need <= self.room:
            return None
        cause = DoesNotFit("It did not.", bytes_needed=need, bytes_available=self.room)
        return RayTaskError(method, "", cause)


class Method:
    def __init__(self, call: Callable[..., list[Ref]], outputs: int = 0) -> None:
        self.call, self.outputs = call, outputs

    def options(self, num_returns: int = 1, **_: Any) -> "Method":
        return Method(self.call, num_returns - 1)

    def remote(self, *args: Any) -> Any:
        refs = self.call(*args, outputs=self.outputs)
        return refs if self.outputs else refs[0]


class Handle:
    """What the pool has of an actor."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    def __getattr__(self, method: str) -> Method:
        return Method(getattr(self.actor, method))


class AtOnce:
    """What the pool uses of Ray's module; of what is ready it names the last first."""

    def get(self, ref: Ref, timeout: float | None = None) -> Any:
        if isinstance(ref.value, RayTaskError):
            raise ref.value
        return ref.value

    def wait(self, refs: list[Ref], *, num_returns: int = 1, timeout: float | None = None) -> Any:
        return refs[::-1][:num_returns], refs[::-1][num_returns:]

    def kill(self, handle: Handle) -> None:
        raise AssertionError("nobody is to be killed")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., tuple[Pool, list[Actor]]]]:
    """Starts a pool of actors with these memories."""

    def start(*rooms: int) -> tuple[Pool, list[Actor]]:
        actors = [Actor(room) for room in rooms]
        left = iter(actors)
        patched.setattr(members, "start_worker", lambda *_: Handle(next(left)))
        ours = Pool(Settings(workers=len(rooms), cores=len(rooms)), DirectoryStore(tmp_path), lambda: None)
        ours.start(grain=1)
        return ours, actors

    with pytest.MonkeyPatch.context() as patched, patch.object(pool, "ray", AtOnce()):
        patched.setattr(members, "ray", AtOnce())
        yield start


Start = Callable[..., tuple[Pool, list[Actor]]]


def only(task: Task) -> Output:
    (output,) = task.outputs
    return output


def test_a_task_is_given_to_whoever_has_the_memory_by_the_formula(started: Start) -> None:
    ours, (small, large) = started(10, 100)
    ours.expect(Placement(1, {"takes_50": 50}))
    tasks = [ours.submit("takes_50", n) for n in range(3)] + [ours.submit("takes_5", n) for n in range(3)]
    ours.finish(tasks)
    assert large.did[:3] == ["takes_50(0)", "takes_50(1)", "takes_50(2)"]
    assert len(small.did) == 3


def test_what_does_not_fit_moves_with_all_that_waits_for_it(started: Start) -> None:
    """The formula knew nothing; the first of a chain fails, and what was sent after it with it."""
    ours, (small, large) = started(10, 100)
    got: list[str] = []
    first = ours.submit("takes_50", "x", outputs=1, shard=0, then=lambda _: got.append("first"))
    second = ours.submit("takes_5", only(first), outputs=1, shard=0, then=lambda _: got.append("second"))
    third = ours.submit("takes_5", only(second), only(first), shard=0, then=lambda _: got.append("third"))
    ours.finish([third])
    ours.finish_all()
    assert sorted(got) == ["first", "second", "third"]
    assert large.did == ["takes_50(x)"]
    assert small.did == ["takes_5(takes_50(x))", "takes_5(takes_5(takes_50(x)), takes_50(x))"]
    assert [m.tasks for m in ours._members.everyone] == [0, 0]


def test_a_kind_that_did_not_fit_is_not_tried_on_the_small_one_again(started: Start) -> None:
    ours, (small, large) = started(10, 100)
    ours.finish([ours.submit("takes_50", 1, shard=0)])
    small.room = 1000
    ours.finish([ours.submit("takes_50", 2, shard=0)])
    ours.expect(Placement())  # the same needs: the audit begins again
    ours.finish([ours.submit("takes_50", 3, shard=0)])
    assert (small.did, len(large.did)) == ([], 3)
    ours.expect(Placement(1))
    ours.finish([ours.submit("takes_50", 4, shard=0)])
    assert small.did == ["takes_50(4)"]


def test_what_fits_nobody_ends_with_the_bytes(started: Start) -> None:
    ours, _ = started(10, 100)
    with pytest.raises(DoesNotFit) as caught:
        ours.finish([ours.submit("takes_500", 1)])
    assert caught.value.extra == {"bytes_needed": 500, "bytes_available": 100}


def test_a_worker_without_room_for_the_model_gets_no_task_of_its_audit(started: Start) -> None:
    ours, (small, large) = started(10, 100)
    ours.introduce(lambda: ("takes_50", "the model"))
    assert len(ours) == 1
    ours.finish([ours.submit("takes_5", n, shard=n) for n in range(3)])
    assert small.did == []
    assert len(large.did) == 4
    ours.start(grain=1)
    assert len(ours) == 2


def test_a_model_without_room_anywhere_ends_the_audit(started: Start) -> None:
    ours, _ = started(10, 100)
    with pytest.raises(DoesNotFit) as caught:
        ours.introduce(lambda: ("takes_500", "the model"))
    assert caught.value.extra["bytes_needed"] == 500


def test_an_ended_task_keeps_nothing_that_it_was_given(started: Start) -> None:
    ours, _ = started(10)
    first = ours.submit("takes_5", "x", outputs=1)
    second = ours.submit("takes_5", only(first))
    ours.finish([first, second])
    assert (first.args, second.args, second.sent) == ((), (), ())


@dataclass
class OnGpu(Actor):
    """Greets with the kind of its GPU."""

    kind: str = ""

    def call(self, method: str, args: tuple[Any, ...], outputs: int) -> list[Ref]:
        return [Ref(Greeting(platform_fingerprint("cuda") | {"isa": self.kind}, self.room, self.kind, ""))]


class Forgiving(AtOnce):
    def kill(self, handle: Handle) -> None:
        return


class Full(AtOnce):
    """A cluster that has room for the first actor that asks, or for none."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.started: list[Ref] | None = None
        self.killed: list[Handle] = []

    def wait(self, refs: list[Ref], *, num_returns: int = 1, timeout: float | None = None) -> Any:
        if self.started is None:
            self.started = refs[: self.room]
        return [ref for ref in refs if ref in self.started], [ref for ref in refs if ref not in self.started]

    def kill(self, handle: Handle) -> None:
        self.killed.append(handle)


@pytest.mark.parametrize("room", [0, 1])
def test_whoever_gives_up_waiting_for_workers_asks_for_them_no_more(room: int, tmp_path: Path) -> None:
    """Or they start once there is room, and hold it for nobody."""
    handles = [Handle(Actor(1)) for _ in range(3)]
    left, looks = iter(handles), iter([None, None])

    def check() -> None:
        if next(looks, "cancelled"):
            raise Cancelled("The audit was cancelled.")

    full = Full(room)
    with patch.object(members, "start_worker", lambda *_: next(left)), patch.object(members, "ray", full):
        ours = Pool(Settings(workers=3, cores=3), DirectoryStore(tmp_path), check)
        assert ours.width == 3
        with pytest.raises(Cancelled):
            ours.start(grain=1)
        assert ours.asked_for == len(ours) == room
    assert full.killed == handles[room:]


@pytest.mark.parametrize("kinds", [("H100", "H100"), ("H100", "A100")])
def test_gpus_of_two_kinds_are_not_mixed(kinds: tuple[str, str], tmp_path: Path) -> None:
    """What the controller's own machine has says nothing here: it may have no GPU."""
    left = iter(OnGpu(1, kind=kind) for kind in kinds)
    with (
        patch.object(members, "start_worker", lambda *_: Handle(next(left))),
        patch.object(members, "ray", Forgiving()),
    ):
        ours = members.Members(Settings(workers=2, worker_gpus=1), DirectoryStore(tmp_path))
        ours.gather(1, 2)
        if len(set(kinds)) == 1:
            assert len(ours.joined()) == 2
            return
        with pytest.raises(RayFailed, match=r"another platform than the controller: isa H100 and not A100") as caught:
            ours.joined()
    assert caught.value.slug == "workers-differ"
    assert not ours.everyone


@pytest.mark.parametrize("theirs", ["g++ 12", ""])
def test_results_of_two_compilers_are_not_mixed(theirs: str, tmp_path: Path) -> None:
    """They are kept under the controller's; a worker that has none makes none."""
    with (
        patch.object(members, "start_worker", lambda *_: Handle(Actor(1, compiler=theirs))),
        patch.object(members, "ray", Forgiving()),
    ):
        ours = members.Members(Settings(workers=2, cores=2), DirectoryStore(tmp_path))
        for compiler, refused in ((None, False), (theirs, False), ("g++ 14", theirs != "")):
            ours.gather(1, 2, None)
            ours.joined()
            if refused:
                with pytest.raises(RayFailed, match=r"g\+\+ 12 and not g\+\+ 14") as caught:
                    ours.gather(1, 2, compiler)  # those that are there already
                assert caught.value.slug == "workers-differ"
                ours.gather(1, 2, compiler)
                with pytest.raises(RayFailed):
                    ours.joined()
            else:
                ours.gather(1, 2, compiler)
                assert len(ours.ready) == 2


class Gone(AtOnce):
    def wait(self, refs: list[Ref], *, num_returns: int = 1, timeout: float | None = None) -> Any:
        raise RaySystemError("The cluster is gone.")


def test_a_cluster_that_is_lost_with_a_worker_is_started_afresh(started: Start) -> None:
    """What comes out must be typed: the controller starts Ray anew for `RayFailed` only."""
    ours, _ = started(10)
    ours.submit("solve_state")
    with patch.object(pool, "ray", Gone()), pytest.raises(RayFailed, match="The cluster is gone"):
        ours.salvage()
