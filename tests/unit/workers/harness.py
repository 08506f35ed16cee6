"""A worker as it is inside its process, in this one, with a small model on disk."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from peelbound.service.sources.local import LocalSource
from peelbound.service.uris import AllowList, LocalUri
from peelbound.workers.actor import Worker
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.checkpoint.part import Part
from peelbound.workers.passes import Floats, forward
from peelbound.workers.quantisers.activations import round_inputs
from peelbound.workers.quantisers.quantise import quantise
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.quantisers.weight_class import FULL_PRECISION, WeightClass
from peelbound.workers.tasks import Reference, TrainedBlock
from tests.numerics import GRAIN, Subject


@dataclass
class Acting:
    """A worker with a model on disk."""

    worker: Worker
    subject: Subject
    checkpoint: Checkpoint
    directory: Path

    def prepare(self, weights: WeightClass = FULL_PRECISION) -> None:
        self.worker.prepare(self.checkpoint.config, self.checkpoint.read_part(0), weights)

    def part(self, index: int) -> Part:
        return self.checkpoint.read_part(index)

    def advance(self, index: int, *leaving: Reference | None, baseline: Part | None = None) -> list[Floats]:
        """What comes out where every network has the model's own h[index−1]."""
        states = [self.subject.h(index - 1)] * len(leaving)
        block = TrainedBlock(index)
        *outputs, _ = self.worker.advance(block, self.part(index), baseline, list(leaving), *states)
        return [output for output in outputs if isinstance(output, np.ndarray)]

    def by_hand(self, index: int, scheme: Scheme | None, *, activations: bool) -> Floats:
        """The library's own block, its maps rounded by hand."""
        block: nn.Module = copy.deepcopy(self.subject.in_whole(index))
        maps = self.subject.architecture.linear_maps(index)
        for linear in maps if scheme is not None else ():
            parameter = block.get_parameter(linear.name)
            parameter.data = quantise(parameter.data, scheme.weights if scheme else Scheme("full"))
        if activations:
            round_inputs(block, {linear.name for linear in maps})
        return forward(self.subject.skeleton, index, block, self.subject.h(index - 1), GRAIN)


def opened(directory: Path, name: str) -> Checkpoint:
    uri = AllowList([str(directory)]).resolve(str(directory / name), "/checkpoint")
    assert isinstance(uri, LocalUri)
    return Checkpoint.open(LocalSource.of_directory(uri))
