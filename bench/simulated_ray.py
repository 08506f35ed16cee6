"""Ray in virtual time, for `bench.simulate`: the controller's own code runs, and what it asks for takes as long as a
model of the cluster says.

Every call of the controller charges the CPU time that its code took since the call before, so the driver is as slow as
it is. Actors run one task at a time in the order in which they were sent; a task starts when its arguments are on its
node. Nodes have one link each, over which every object that a node lacks comes once.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from peelbound.workers.checkpoint.part import Part

EMBEDDING = 0
"""Number of the part outside the blocks."""


@dataclass(frozen=True)
class Costs:
    """Of Ray and of the cluster, in seconds and bytes per second."""

    submit: float
    """A call of an actor, on the driver."""
    take: float
    """Waiting for and fetching one small result, on the driver."""
    latency: float
    """From the call to the start on an idle actor, and back."""
    put: float
    """Bytes per second into the object store."""
    link: float
    """Bytes per second into a node."""
    read: float
    """Bytes per second from the checkpoint's storage."""


@dataclass(eq=False, slots=True)
class SimulatedRef:
    """An object: when it is there, how large, on which nodes."""

    ready: float
    bytes: int
    value: Any
    nodes: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What a task does: seconds on a worker, its small result, and the sequences of each array that it returns."""

    seconds: float
    values: Any
    rows: tuple[int, ...] = ()
    load: float = 0.0
    """Of the seconds, those in which blocks are made of their bytes: again in every task that needs one."""


Model = Callable[[str, tuple[Any, ...]], Work]
"""Tells what a method with these arguments (references resolved) does."""


class SimulatedRay:
    """What the controller uses of Ray's module."""

    def __init__(self, costs: Costs, model: Model, block_bytes: int, width: int, node_workers: int) -> None:
        """Start at time 0.

        Args:
            costs: of the cluster.
            model: of the work.
            block_bytes: of a block as stored.
            width: D of the model that is simulated; arrays that stand for states have one channel.
            node_workers: workers of a node.
        """
        self.costs, self.model, self.block_bytes, self.width = costs, model, block_bytes, width
        self.now = 0.0
        self.driver_seconds = self.worker_seconds = self.load_seconds = self.read_seconds = 0.0
        self.tasks = 0
        self._node_workers = node_workers
        self._actors = 0
        self._links: dict[int, float] = {}
        self._read_until = 0.0
        self._handed_out = 0.0
        self._cpu = time.process_time()

    def _charge(self, seconds: float = 0.0) -> None:
        """The driver's own code since the last call, and what the call costs."""
        spent = time.process_time() - self._cpu + seconds
        self.now += spent
        self.driver_seconds += spent

    def _resume(self) -> None:
        self._cpu = time.process_time()

    def size(self, value: Any) -> int:
        """Bytes of what a value stands for."""
        if isinstance(value, Part):
            return self.block_bytes
        if isinstance(value, np.ndarray):
            return int(value.nbytes) * (self.width if value.ndim == 3 else 1)
        return 0

    def put(self, value: Any) -> SimulatedRef:
        """Into the object store; a block has to be read first, one ahead of the controller."""
        self._charge()
        if isinstance(value, Part) and value.index != EMBEDDING:
            self._read_until = max(self._read_until, self._handed_out) + self.block_bytes / self.costs.read
            self.read_seconds += max(0.0, self._read_until - self.now)
            self._handed_out = self.now
            self.now = max(self.now, self._read_until)
        size = self.size(value)
        self.now += size / self.costs.put
        self._resume()
        return SimulatedRef(self.now, size, value)

    def get(self, wanted: Any, timeout: float | None = None) -> Any:  # noqa: ARG002 - everything is there in time
        """The values, as soon as they are there."""
        self._charge(self.costs.take)
        refs: Sequence[SimulatedRef] = wanted if isinstance(wanted, list) else [wanted]
        self.now = max([self.now, *(ref.ready for ref in refs)])
        self._resume()
        return [ref.value for ref in refs] if isinstance(wanted, list) else wanted.value

    def wait(
        self, refs: list[SimulatedRef], *, num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[SimulatedRef], list[SimulatedRef]]:
        """Go on to the moment at which so many are there; time-outs, which only let the controller look up, pass."""
        self._charge()
        if timeout != 0 and refs:
            moment = min(r.ready for r in refs) if num_returns == 1 else sorted(r.ready for r in refs)[num_returns - 1]
            self.now = max(self.now, moment)
        there = [ref for ref in refs if ref.ready <= self.now][:num_returns]
        chosen = set(map(id, there))
        self._resume()
        return there, [ref for ref in refs if id(ref) not in chosen]

    def kill(self, actor: Any) -> None:
        """Nothing is left of it."""

    def start_worker(self, *_: Any) -> "SimulatedActor":
        """An actor on the node that has room."""
        self._actors += 1
        return SimulatedActor(self, (self._actors - 1) // self._node_workers)

    def call(self, actor: "SimulatedActor", method: str, args: tuple[Any, ...], outputs: int) -> list[SimulatedRef]:
        """Run a task; it is known at once when it ends."""
        self._charge(self.costs.submit)
        self.tasks += 1
        arrived = max([self.now + self.costs.latency, *(self._arrival(a, actor.node) for a in args if _is_ref(a))])
        work = self.model(method, tuple(a.value if _is_ref(a) else a for a in args))
        end = max(arrived, actor.free) + work.seconds
        actor.free = end
        self.worker_seconds += work.seconds
        self.load_seconds += work.load
        arrays = [np.zeros((rows, _length(args), 1), np.float32) for rows in work.rows]
        if len(arrays) != outputs:
            raise RuntimeError(f"{method} returns {len(arrays)} arrays, and the controller expects {outputs}")
        refs = [SimulatedRef(end, self.size(a), a, {actor.node: end}) for a in arrays]
        self._resume()
        return [*refs, SimulatedRef(end + self.costs.latency, 0, work.values)]

    def _arrival(self, ref: SimulatedRef, node: int) -> float:
        if node not in ref.nodes:
            begin = max(self._links.get(node, 0.0), ref.ready)
            self._links[node] = ref.nodes[node] = begin + ref.bytes / self.costs.link
        return max(ref.nodes[node], ref.ready)


class SimulatedActor:
    """A worker: `actor.method.options(…).remote(…)`."""

    def __init__(self, cluster: SimulatedRay, node: int) -> None:
        self.cluster, self.node, self.free = cluster, node, 0.0

    def __getattr__(self, method: str) -> "_Method":
        return _Method(self, method)


class _Method:
    def __init__(self, actor: SimulatedActor, name: str, outputs: int = 0) -> None:
        self._actor, self._name, self._outputs = actor, name, outputs

    def options(self, *, num_returns: int = 1, **_: Any) -> "_Method":
        return _Method(self._actor, self._name, num_returns - 1)

    def remote(self, *args: Any) -> Any:
        refs = self._actor.cluster.call(self._actor, self._name, args, self._outputs)
        return refs if self._outputs else refs[0]


def _is_ref(value: Any) -> bool:
    return isinstance(value, SimulatedRef)


def _length(args: tuple[Any, ...]) -> int:
    arrays = [a.value for a in args if _is_ref(a) and isinstance(a.value, np.ndarray) and a.value.ndim >= 2]
    return int(arrays[0].shape[1]) if arrays else 0
