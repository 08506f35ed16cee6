"""What is audited: a checkpoint and the calibration set it is measured on, cut into shards for the pool."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from peelbound.service.controller import metrics
from peelbound.service.controller.cost import CostModel
from peelbound.service.controller.members import Ref
from peelbound.service.controller.pool import Pool
from peelbound.workers.calibration import CalibrationSet, Split, loss_mask
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.errors import pointing
from peelbound.workers.quantisers.weight_class import WeightClass
from peelbound.workers.recipes import Arithmetic

FIT, SELECT, CHECK = "fit", "select", "check"


@dataclass(frozen=True)
class Shard:
    """Whole grains of one split; the references are to arrays in Ray's object store."""

    split: str
    number: int
    rows: slice
    ids: Ref
    mask: Ref


class Data:
    """The splits of a calibration set, and their shards on a pool."""

    def __init__(self, calibration: CalibrationSet, pool: Pool) -> None:
        self.splits = calibration.splits
        self.sequence_length = calibration.sequence_length
        self.masks = {name: loss_mask(split) for name, split in self.splits.items()}
        self.shards = {name: self._cut(name, split, pool) for name, split in self.splits.items()}
        self.fit_documents = ray.put(self.splits[FIT].document.astype(np.int64))

    def _cut(self, name: str, split: Split, pool: Pool) -> list[Shard]:
        return [
            Shard(name, number, part, ray.put(split.ids[part]), ray.put(self.masks[name][part]))
            for number, part in enumerate(shard_rows(len(split.ids), pool.grain, pool.width))
        ]

    def tokens(self, split: str) -> NDArray[np.float64]:
        """Tokens with a loss per document of a split, [documents]."""
        return self.loss_sums(split, np.ones_like(self.masks[split], dtype=np.float32))

    def all_tokens(self, split: str) -> NDArray[np.float64]:
        """Tokens per document of a split, with or without a loss, [documents]."""
        return self.token_sums(split, np.ones(self.splits[split].ids.shape, np.float32))

    def loss_sums(self, split: str, losses: NDArray[np.float32]) -> NDArray[np.float64]:
        """Losses [N, T−1] summed by document, in the order of the tokens, in float64."""
        return loss_sums(self.splits[split], self.masks[split], losses)

    def token_sums(self, split: str, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Values of every token [N, T] summed by document."""
        return token_sums(self.splits[split], values)


def shard_rows(sequences: int, grain: int, workers: int) -> list[slice]:
    """Cut sequences into whole grains, for as many workers as there are grains: equal shares but for one grain."""
    count = -(-sequences // grain)
    bounds = np.linspace(0, count, min(workers, count) + 1).round().astype(int) * grain
    return [slice(int(a), min(int(b), sequences)) for a, b in pairwise(bounds)]


def loss_sums(split: Split, mask: NDArray[np.bool_], losses: NDArray[np.float32]) -> NDArray[np.float64]:
    """Losses [N, T−1] under the mask, summed by document; a loss is its context token's document's."""
    return _sums(split.document[:, :-1][mask], losses[mask], split.documents)


def token_sums(split: Split, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Values of every token [N, T] summed by document; tokens of no document are left out."""
    owned = split.document >= 0
    return _sums(split.document[owned], values[owned], split.documents)


def _sums(owner: NDArray[np.int32], values: NDArray[np.float32], documents: int) -> NDArray[np.float64]:
    return np.bincount(owner, weights=values.astype(np.float64), minlength=documents).astype(np.float64)


class Audited:
    """A checkpoint on the pool: its parts as they are walked, checked against each other from walk to walk."""

    def __init__(self, checkpoint: Checkpoint, pool: Pool, pointer: str = "/checkpoint") -> None:
        """Bind to a checkpoint, which the request names at `pointer`."""
        self.checkpoint, self.pool, self._pointer = checkpoint, pool, pointer
        self.blocks = checkpoint.architecture.block_count
        self.cost = CostModel.of(checkpoint)
        self.walks = 0
        self._digests: dict[int, str] = {}

    def prepare(self, weights: WeightClass, arithmetic: Arithmetic) -> None:
        """Give every actor the skeleton, all but the blocks, the weight class of these, and how they are computed."""

        def introduction() -> tuple[Any, ...]:  # read again for those that join later, rather than kept in memory
            (rest,) = self.checkpoint.read_parts([0], self.pool.check)
            self._digests[0] = rest.sha256
            return "prepare", self.checkpoint.config, ray.put(rest), weights, arithmetic

        self.pool.introduce(introduction)

    def parts(self, order: Sequence[int]) -> Iterator[tuple[int, Ref]]:
        """Walk over the blocks' parts, the next one read while this one is in use; yields (index, reference)."""
        self.walks += 1
        with pointing(self._pointer):
            for part in self.checkpoint.read_parts(order, self.pool.check):
                metrics.CHECKPOINT_BYTES.inc(self.checkpoint.part_bytes[part.index])
                self._digests[part.index] = part.sha256
                yield part.index, ray.put(part)

    def assume(self, parts: Sequence[str]) -> None:
        """Take the digests of parts 0..K as they are known; one that is read from now on counts instead."""
        self._digests = dict(enumerate(parts)) | self._digests

    @property
    def part_digests(self) -> list[str]:
        """Of parts 0..K, once every part was read."""
        return [self._digests[i] for i in range(self.blocks + 1)]

    @property
    def read_whole(self) -> bool:
        """Whether every part was read at least once."""
        return len(self._digests) == self.blocks + 1

    def digest(self) -> str:
        """SHA-256 of the whole checkpoint, once every part was read."""
        return self.checkpoint.digest(self.part_digests)
