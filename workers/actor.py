"""The Ray actor: holds the skeleton of one model and executes passes and solves that the controller sends.

It keeps nothing that counts: solutions go to object storage, states to Ray's object store, owned by the controller.
Every method that works returns the bulky part and the small part separately, so that the controller fetches only the
latter.
"""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import nn

from peelbound.workers import damage, head, passes, solver, spectrum
from peelbound.workers.architecture import Architecture
from peelbound.workers.checkpoint.part import Part
from peelbound.workers.errors import Cancelled, pointing
from peelbound.workers.heap import Heap
from peelbound.workers.keys import platform_fingerprint
from peelbound.workers.leash import Leash
from peelbound.workers.linear_maps import LinearMap
from peelbound.workers.passes import Floats, Ints
from peelbound.workers.quantisers.activations import round_inputs
from peelbound.workers.quantisers.conversion import require_dense
from peelbound.workers.quantisers.latents import Latents
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.quantisers.weight_class import FULL_PRECISION, Rounded, WeightClass, effective
from peelbound.workers.recipes import FLOAT32, Arithmetic, CorrectedSettings, HeadSettings, StateSettings
from peelbound.workers.results import ResultStore, load_tensors, save_solution
from peelbound.workers.skeleton import Skeleton

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # one thread per actor: the order of sums must not depend on the machine
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # compilation, too, stays within the actor's one CPU
    "HF_HUB_OFFLINE": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on CUDA
}

TRAINED = "trained"
"""Name of the audited network among the references."""


@dataclass(frozen=True)
class Damage:
    """Weight noise planted in one block of the audited model, for the positive control."""

    block: int
    sigma: float
    seed: int


@dataclass(frozen=True)
class TrainedBlock:
    """Which block a pass goes through: the trained one, damaged where `damage` says so."""

    index: int
    damage: Damage | None = None


@dataclass(frozen=True)
class Reference:
    """A competitor that leaves the trained network at block `leaves` and rejoins it after block `rejoins`.

    Between stands a solution (`solution` is its key), weight noise (`damage`), or nothing at all: the skip reference.
    With `rounds` it passes the trained blocks and its own rounded ones in turn.
    """

    name: str
    leaves: int
    rejoins: int
    solution: str | None = None
    damage: Damage | None = None
    free: bool = False
    """Whether the solution left the model's weight class for full precision."""
    rounded_to: str | None = None
    """Beside a model in full precision: the weight class of the solution, or that `rounds` are rounded to."""
    baseline: str | None = None
    """Digest of the checkpoint before quantisation, whose block it takes."""
    rounds: tuple[int, ...] = ()
    """Blocks that are rounded to `rounded_to`, `leaves` the first of them; between them the network is the trained."""


@dataclass(frozen=True)
class Done:
    """What a task has to say besides its arrays."""

    seconds: float
    """Time in the task, for the utilisation of the pool; never part of a result."""
    values: dict[str, Any] = field(default_factory=dict)
    stored_bytes: int = 0
    """What the task has put into object storage."""


@dataclass(frozen=True)
class CorrectedProblem:
    """Peel problem: trained block → corrected target."""

    key: str
    block: TrainedBlock
    settings: CorrectedSettings


@dataclass(frozen=True)
class StateProblem:
    """Peel problem: fresh block → trained state."""

    key: str
    index: int
    settings: StateSettings
    seed: int
    solved: bool
    """Whether the solution lies in object storage and need only be applied."""


@dataclass(frozen=True)
class HeadProblem:
    """Refit of norm and output projection."""

    key: str
    settings: HeadSettings
    seed: int


class Worker:
    """One process of the pool. Methods are called one at a time, except those of the control group, which interrupt."""

    def __init__(self, store: ResultStore, device: str, grain: int, leash_seconds: float | None = None) -> None:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        self.store, self.device, self.grain = store, device, grain
        self.skeleton: Skeleton
        self.weights = FULL_PRECISION
        self._stop = threading.Event()
        self._heap = Heap()
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
        """Build the skeleton of the model to be audited, whose blocks are of this weight class, computed so."""
        start = self._begin()
        self.skeleton = Skeleton(Architecture.from_config_json(config), rest.tensors(), self.device, arithmetic)
        self.weights = weights
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

    def platform(self) -> dict[str, str]:
        """What results depend on besides their inputs; the answer also says that everything is imported."""
        return platform_fingerprint(self.device)

    def _begin(self) -> float:
        """When this task starts; what the one before it has left behind is gone by then."""
        self._heap.settle()
        return time.perf_counter()

    def _on_step(self, step: int) -> None:  # noqa: ARG002 - the solver's signature
        if self._stop.is_set():
            raise Cancelled("The audit was cancelled.")

    def _load(self, block: TrainedBlock, part: Part, *, free: bool = False) -> nn.Module:
        """The block as the model runs it: of its weight class, damaged or not; `free`: but for rounded activations."""
        self._on_step(0)
        tensors = part.tensors()
        damaged = block.damage is not None and block.damage.block == block.index
        if self.weights.latent or damaged:
            tensors, rounding = self._stored(block, part, tensors)
            tensors = effective(tensors, rounding)
        return self._made(block.index, tensors, free=free)

    def _stored(
        self, block: TrainedBlock, part: Part, tensors: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Rounded]]:
        """Weights as stored, with the planted noise, and how they are rounded: the damaged copy is of the class too."""
        rounding = self.weights.trained(self._maps(block.index), tensors, part.grids())
        if block.damage is not None and block.damage.block == block.index:
            tensors = damage.noisy(tensors, block.damage.sigma, block.damage.seed)
        return tensors, rounding

    def _made(
        self, index: int, tensors: dict[str, torch.Tensor], *, free: bool = False, rounded_to: str | None = None
    ) -> nn.Module:
        block = self.skeleton.load_block(index, tensors)
        return block if free else self._rounding_inputs(index, block, rounded_to)

    def _rounded(self, index: int, part: Part, rounded_to: str) -> nn.Module:
        """A block of a model in full precision, its linear maps rounded to a weight class."""
        rounding = WeightClass(Scheme.parse(rounded_to)).fresh(self._maps(index))
        return self._made(index, effective(part.tensors(), rounding), rounded_to=rounded_to)

    def _maps(self, index: int) -> tuple[LinearMap, ...]:
        return self.skeleton.architecture.linear_maps(index)

    def _rounding_inputs(self, index: int, block: nn.Module, rounded_to: str | None = None) -> nn.Module:
        weights = self.weights if rounded_to is None else WeightClass(Scheme.parse(rounded_to))
        if weights.scheme.activation_bits:
            round_inputs(block, {linear.name for linear in weights.restricted(self._maps(index))})
        return block

    def _latents(self, problem: CorrectedProblem, part: Part, module: nn.Module) -> Latents:
        """What a corrected solve moves: the latent weights that are stored, or else the grid points themselves."""
        if problem.settings.rounded_to is not None:
            scheme = Scheme.parse(problem.settings.rounded_to)
            return Latents(module, WeightClass(scheme).fresh(self._maps(problem.block.index)), part.tensors())
        if problem.settings.free or self.weights.scheme.full:
            return Latents(module)
        tensors, rounding = self._stored(problem.block, part, part.tensors())
        return Latents(module, rounding, tensors if self.weights.latent else None)

    def _start(self, problem: CorrectedProblem, part: Part) -> nn.Module:
        """The block that a corrected solve starts from; in full precision what enters its maps is not rounded."""
        if problem.settings.rounded_to is not None:
            return self._rounded(problem.block.index, part, problem.settings.rounded_to)
        return self._load(problem.block, part, free=problem.settings.free)

    def embed(self, ids: Ints) -> tuple[Floats, Done]:
        """h[0] of a shard."""
        start = self._begin()
        return passes.embed(self.skeleton, ids, self.grain), Done(time.perf_counter() - start)

    def forward(self, block: TrainedBlock, part: Part, states: Floats) -> tuple[Floats, Done]:
        """h[l] of a shard from h[l−1]; values: `cosine` [N, T]."""
        start = self._begin()
        module = self._load(block, part)
        after = passes.forward(self.skeleton, block.index, module, states, self.grain)
        return after, Done(time.perf_counter() - start, {"cosine": passes.cosine(states, after)})

    def middle(self, block: TrainedBlock, part: Part, states: Floats) -> tuple[Floats | None, Done]:
        """The state of a shard between the block's attention and its MLP, from h[l−1]; None: see `passes.middle`."""
        start = self._begin()
        found = passes.middle(self.skeleton, block.index, self._load(block, part), states, self.grain)
        return found, Done(time.perf_counter() - start)

    def weigh(self, block: TrainedBlock, part: Part) -> Done:
        """What a block's weights alone say; values: `weight_norm`, `spectrum`."""
        start = self._begin()
        parameters = dict(self._load(block, part).named_parameters())
        norm = float(sum(p.double().square().sum() for p in parameters.values()) ** 0.5)
        values = {"weight_norm": norm, "spectrum": asdict(spectrum.untouched(parameters))}
        return Done(time.perf_counter() - start, values)

    def loss_gradient(self, states: Floats, ids: Ints, mask: NDArray[np.bool_]) -> tuple[Floats, Done]:
        """g[K] of a shard; values: `losses` [N, T−1]."""
        start = self._begin()
        rows, gradient = passes.loss_gradient(self.skeleton, states, ids, mask, self.grain)
        return gradient, Done(time.perf_counter() - start, {"losses": rows})

    def backward(self, block: TrainedBlock, part: Part, states: Floats, gradient: Floats) -> tuple[Floats, Done]:
        """g[l−1] of a shard; values: `attention`, `mlp`, `block`: scale products per token [N, T] or None."""
        start = self._begin()
        step = passes.backward(self.skeleton, block.index, self._load(block, part), states, gradient, self.grain)
        values = {"attention": step.attention, "mlp": step.mlp, "block": step.block}
        return step.gradient, Done(time.perf_counter() - start, values)

    def solve_corrected(self, problem: CorrectedProblem, part: Part, documents: Ints, *shards: Floats) -> Done:
        """Solve a block reference; shards: h[l−1], h[l], g[l] of fit, one after another. The solution is stored."""
        start = self._begin()
        before, after, gradient = _thirds(shards)
        module = self._start(problem, part)
        latents = self._latents(problem, part, module)
        found = solver.solve_corrected(
            self.skeleton,
            problem.block.index,
            module,
            before,
            after,
            gradient,
            documents,
            problem.settings,
            self.grain,
            self._on_step,
            latents,
        )
        values = {**asdict(found), "codes_moved": self._codes_moved(problem, part, latents)}
        stored = save_solution(self.store, problem.key, module.state_dict(), values)
        return Done(time.perf_counter() - start, values, stored)

    def _codes_moved(self, problem: CorrectedProblem, part: Part, latents: Latents) -> float | None:
        """Share of a block's codes that a solve moved; None where its scales follow the weights, or it has no codes."""
        settings = problem.settings
        if self.weights.scheme.full or self.weights.latent or settings.free or settings.rounded_to is not None:
            return None
        return latents.moved(self._start(problem, part).state_dict())

    def rounding_products(
        self, index: int, part: Part, rounded_to: str, before: Floats, after: Floats, gradient: Floats
    ) -> Done:
        """What rounding a block does to the loss of a shard, to first order; values: `products` [N, T].

        Args:
            index: 1..K.
            part: the block's bytes, of a model in full precision.
            rounded_to: the weight class.
            before: h[l−1], [N, T, D].
            after: h[l].
            gradient: g[l].

        Raises:
            RequestError: a linear map of the block lies on a grid already (slug ``request-what-if-low-bit``).
        """
        start = self._begin()
        self._on_step(0)
        require_dense(self._maps(index), part.tensors(), rounded_to, index)
        block = self._rounded(index, part, rounded_to)
        products = passes.output_products(self.skeleton, index, block, before, after, gradient, self.grain)
        return Done(time.perf_counter() - start, {"products": products})

    def solve_state(
        self,
        problem: StateProblem,
        select: Floats,
        select_target: Floats,
        pieces: int,
        targets: int,
        *shards: Floats | None,
    ) -> tuple[Floats, Floats, Done]:
        """Solve (or look up) a peeled block and apply it.

        Args:
            problem: the problem.
            select: its input on select, [N, T, D].
            select_target: its target on select.
            pieces: how many of the shards are its input; the output of a peeled block comes whole.
            targets: how many shards follow that are its target.
            shards: input and target on fit, one after another; then, where the target is the block's own state, the
                trained state between its halves, each None where they cannot be told apart.

        Returns:
            Output on fit, output on select, and values `fit_residual`, `select_residual`.
        """
        start = self._begin()
        present = [shard for shard in shards if shard is not None]
        inputs, target = np.concatenate(present[:pieces]), np.concatenate(present[pieces : pieces + targets])
        between = present[pieces + targets :]
        free = problem.settings.free
        if problem.solved:
            block = self._made(problem.index, load_tensors(self.store, problem.key), free=free)
        else:
            block = self.skeleton.fresh_block(problem.index, problem.seed)
            block = block if free else self._rounding_inputs(problem.index, block)
            latents = Latents(block, None if free else self.weights.fresh(self._maps(problem.index)))
            solver.solve_state(
                self.skeleton,
                problem.index,
                block,
                inputs,
                target,
                problem.settings,
                problem.seed,
                self._on_step,
                latents,
                np.concatenate(between) if between else None,
            )
        fit_output = passes.forward(self.skeleton, problem.index, block, inputs, self.grain, competitor=True)
        select_output = passes.forward(self.skeleton, problem.index, block, select, self.grain, competitor=True)
        values = {
            "fit_residual": solver.relative_error(fit_output, target),
            "select_residual": solver.relative_error(select_output, select_target),
        }
        stored = 0 if problem.solved else save_solution(self.store, problem.key, block.state_dict(), values)
        return fit_output, select_output, Done(time.perf_counter() - start, values, stored)

    def apply_solution(self, key: str, index: int, states: Floats, free: bool = False) -> tuple[Floats, Done]:
        """Push a shard through a stored peeled block; `free`: one that left the model's weight class."""
        start = self._begin()
        block = self._made(index, load_tensors(self.store, key), free=free)
        after = passes.forward(self.skeleton, index, block, states, self.grain, competitor=True)
        return after, Done(time.perf_counter() - start)

    def refit_head(
        self,
        problem: HeadProblem,
        fit_ids: Ints,
        fit_mask: NDArray[np.bool_],
        select_ids: Ints,
        select_mask: NDArray[np.bool_],
        select: Floats,
        *fit: Floats,
    ) -> Done:
        """Refit the head on h[K] of fit, stop on select; values: step, extra parameters, losses per token by split."""
        start = self._begin()
        found = head.refit(
            self.skeleton,
            head.HeadData(np.concatenate(fit), fit_ids, fit_mask),
            head.HeadData(select, select_ids, select_mask),
            problem.settings,
            problem.seed,
            self.grain,
            self._on_step,
        )
        measured = {"chosen_step": found.chosen_step, "extra_parameters": self.skeleton.untied_parameters()}
        stored = save_solution(self.store, problem.key, found.parameters, measured)
        losses = {"fit": found.fit, "fit_unchanged": found.fit_unchanged, "select": found.select}
        return Done(time.perf_counter() - start, {**measured, **losses}, stored)

    def advance(
        self,
        block: TrainedBlock,
        part: Part,
        baseline: Part | None,
        leaving: list[Reference | None],
        *states: Floats,
    ) -> Iterator[Floats | Done]:
        """Push the trained network and all references of a shard through one block, one after another.

        What comes out of each is handed over before the next one goes in: a worker holds one network's states, however
        many there are.

        Args:
            block: the block that they pass, or that some replace.
            part: its bytes.
            baseline: those of the baseline's block, where a reference takes it.
            leaving: per states, the reference that has a block of its own here, or None: the trained block.
            states: h[l−1] of each, [N, T, D]; the trained network's own come first.

        Yields:
            h[l] of each, then what the task has to say.
        """
        start = self._begin()
        module = self._load(block, part)
        rounded = dict[str, nn.Module]()  # one for all the references that round this block
        for number, (reference, value) in enumerate(zip(leaving, states, strict=True)):
            self._on_step(number)
            self._heap.settle()
            if reference is None:
                own = module
            elif block.index in reference.rounds:
                scheme = str(reference.rounded_to)
                own = rounded[scheme] if scheme in rounded else self._rounded(block.index, part, scheme)
                rounded[scheme] = own
            else:
                own = self._leaving(reference, part, baseline)
            yield passes.forward(self.skeleton, block.index, own, value, self.grain, competitor=number > 0)
        yield Done(time.perf_counter() - start)

    def _leaving(self, reference: Reference, part: Part, baseline: Part | None) -> nn.Module:
        """What stands where a reference leaves the trained network."""
        if reference.baseline is not None and baseline is not None:
            with pointing("/baseline"):
                return self._made(reference.leaves, baseline.tensors(), free=True)
        if reference.solution is None:
            return self._load(TrainedBlock(reference.leaves, reference.damage), part)
        tensors = load_tensors(self.store, reference.solution)
        return self._made(reference.leaves, tensors, free=reference.free, rounded_to=reference.rounded_to)

    def losses(
        self, ids: Ints, mask: NDArray[np.bool_], head_key: str | None, names: list[str], *states: Floats
    ) -> Done:
        """Losses per token [N, T−1] of every network of a shard, by name, with the trained or a refitted head.

        Args:
            ids: [N, T].
            mask: [N, T−1].
            head_key: of the refitted head, or None.
            names: of the networks; `trained` is the audited one.
            states: h[K] of each, [N, T, D].
        """
        start = self._begin()
        fitted = None if head_key is None else load_tensors(self.store, head_key)
        values = {}
        for number, (name, h) in enumerate(zip(names, states, strict=True)):
            self._on_step(number)
            values[name] = passes.losses(self.skeleton, h, ids, mask, self.grain, fitted, competitor=name != TRAINED)
        return Done(time.perf_counter() - start, values)


def _thirds(shards: tuple[Floats, ...]) -> tuple[Floats, Floats, Floats]:
    n = len(shards) // 3
    return np.concatenate(shards[:n]), np.concatenate(shards[n : 2 * n]), np.concatenate(shards[2 * n :])


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
    return actor.remote(store, device, grain, leash_seconds)
