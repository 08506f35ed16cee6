"""The blocks of one model as modules: what stands in block l's place in a pass, and what a solve starts from."""

import torch
from torch import nn

from peelbound.workers import damage
from peelbound.workers.checkpoint.part import Part
from peelbound.workers.errors import pointing
from peelbound.workers.linear_maps import LinearMap
from peelbound.workers.quantisers.activations import round_inputs
from peelbound.workers.quantisers.latents import Latents
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.quantisers.weight_class import Rounded, WeightClass, effective
from peelbound.workers.results import ResultStore, load_tensors
from peelbound.workers.skeleton import Skeleton
from peelbound.workers.tasks import CorrectedProblem, Reference, StateProblem, TrainedBlock


class Blocks:
    """Makes blocks of one model from their bytes, in the model's weight class or outside it.

    `free` says of a block throughout that it left the weight class: what enters its maps is not rounded either.
    """

    def __init__(self, skeleton: Skeleton, weights: WeightClass, store: ResultStore) -> None:
        """Bind to a model.

        Args:
            skeleton: the model without its blocks.
            weights: the class that its blocks are of.
            store: where solved blocks lie.
        """
        self._skeleton, self._weights, self._store = skeleton, weights, store

    def maps(self, index: int) -> tuple[LinearMap, ...]:
        """The linear maps of block `index`, 1..K."""
        return self._skeleton.architecture.linear_maps(index)

    def trained(self, block: TrainedBlock, part: Part, *, free: bool = False) -> nn.Module:
        """The block as the model runs it: of its weight class, damaged or not."""
        tensors = part.tensors()
        if self._weights.latent or block.damaged is not None:
            tensors, rounding = self._stored(block, part, tensors)
            tensors = effective(tensors, rounding)
        return self._made(block.index, tensors, free=free)

    def rounded(self, index: int, part: Part, rounded_to: str) -> nn.Module:
        """A block of a model in full precision, its linear maps rounded to a weight class."""
        rounding = WeightClass(Scheme.parse(rounded_to)).fresh(self.maps(index))
        return self._made(index, effective(part.tensors(), rounding), rounded_to=rounded_to)

    def solved(self, index: int, key: str, *, free: bool = False, rounded_to: str | None = None) -> nn.Module:
        """A solution that lies in object storage.

        Raises:
            ObjectCorrupt, ObjectMissing: as `load_tensors` says.
        """
        return self._made(index, load_tensors(self._store, key), free=free, rounded_to=rounded_to)

    def leaving(self, reference: Reference, part: Part, baseline: Part | None) -> nn.Module:
        """What stands where a reference leaves the trained network.

        Args:
            reference: with a block of its own, and not one that it `rounds`.
            part: the bytes of the trained block.
            baseline: those of the baseline's block, where the reference takes it.
        """
        if reference.baseline is not None and baseline is not None:
            with pointing("/baseline"):
                return self._made(reference.leaves, baseline.tensors(), free=True)
        if reference.solution is None:
            return self.trained(TrainedBlock(reference.leaves, reference.damage), part)
        return self.solved(reference.leaves, reference.solution, free=reference.free, rounded_to=reference.rounded_to)

    def start(self, problem: CorrectedProblem, part: Part) -> nn.Module:
        """The block that a corrected solve starts from; in full precision what enters its maps is not rounded."""
        if problem.settings.rounded_to is not None:
            return self.rounded(problem.block.index, part, problem.settings.rounded_to)
        return self.trained(problem.block, part, free=problem.settings.free)

    def latents(self, problem: CorrectedProblem, part: Part, module: nn.Module) -> Latents:
        """What a corrected solve moves: the latent weights that are stored, or else the grid points themselves.

        Args:
            problem: the problem.
            part: the bytes of the trained block.
            module: from `start`; taken over.
        """
        if problem.settings.rounded_to is not None:
            scheme = Scheme.parse(problem.settings.rounded_to)
            return Latents(module, WeightClass(scheme).fresh(self.maps(problem.block.index)), part.tensors())
        if problem.settings.free or self._weights.scheme.full:
            return Latents(module)
        tensors, rounding = self._stored(problem.block, part, part.tensors())
        return Latents(module, rounding, tensors if self._weights.latent else None)

    def fresh(self, problem: StateProblem) -> tuple[nn.Module, Latents]:
        """A block as the library initialises it, and what a state solve moves in its place."""
        free, index = problem.settings.free, problem.index
        block = self._skeleton.fresh_block(index, problem.seed)
        block = block if free else self._rounding_inputs(index, block)
        return block, Latents(block, None if free else self._weights.fresh(self.maps(index)))

    def codes_moved(self, problem: CorrectedProblem, part: Part, latents: Latents) -> float | None:
        """Share of a block's codes that a solve moved; None where its scales follow the weights, or it has no codes."""
        settings = problem.settings
        if self._weights.scheme.full or self._weights.latent or settings.free or settings.rounded_to is not None:
            return None
        return latents.moved(self.start(problem, part).state_dict())

    def _stored(
        self, block: TrainedBlock, part: Part, tensors: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Rounded]]:
        """Weights as stored, with the planted noise, and how they are rounded: the damaged copy is of the class too."""
        rounding = self._weights.trained(self.maps(block.index), tensors, part.grids())
        if block.damaged is not None:
            tensors = damage.noisy(tensors, block.damaged.sigma, block.damaged.seed)
        return tensors, rounding

    def _made(
        self, index: int, tensors: dict[str, torch.Tensor], *, free: bool = False, rounded_to: str | None = None
    ) -> nn.Module:
        block = self._skeleton.load_block(index, tensors)
        return block if free else self._rounding_inputs(index, block, rounded_to)

    def _rounding_inputs(self, index: int, block: nn.Module, rounded_to: str | None = None) -> nn.Module:
        weights = self._weights if rounded_to is None else WeightClass(Scheme.parse(rounded_to))
        if weights.scheme.activation_bits:
            round_inputs(block, {linear.name for linear in weights.restricted(self.maps(index))})
        return block
