"""The actor's methods, called as what they are: what stands in a block's place, and what is rounded there."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from peelbound.service.sources.local import LocalSource
from peelbound.service.storage.directory import DirectoryStore
from peelbound.service.uris import AllowList, LocalUri
from peelbound.workers.actor import CorrectedProblem, Reference, TrainedBlock, Worker
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.checkpoint.part import Part
from peelbound.workers.passes import Floats, forward
from peelbound.workers.quantisers.activations import round_inputs
from peelbound.workers.quantisers.quantise import quantise
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.quantisers.weight_class import FULL_PRECISION, WeightClass
from peelbound.workers.recipes import CorrectedSettings
from tests.numerics import GRAIN, Subject, random_subject

STEP = CorrectedSettings(rho=0.5, steps=1, learning_rate=1e-12, gradient_clip=5.0, outlier=10.0)
"""Moves nothing: what a solution promises is then what it starts from."""


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


@pytest.fixture
def acting(tmp_path: Path) -> Iterator[Acting]:
    """A worker as it is inside its process, in this one."""
    threads = torch.get_num_threads()
    subject = random_subject("llama")
    subject.whole.save_pretrained(tmp_path / "model")
    worker = Worker(DirectoryStore(tmp_path / "store"), "cpu", GRAIN)
    yield Acting(worker, subject, opened(tmp_path, "model"), tmp_path)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("text", ["int3", "int3+a8", "ternary-g16"])
def test_a_block_that_a_reference_rounds_is_the_librarys_own_with_its_maps_rounded(acting: Acting, text: str) -> None:
    acting.prepare()
    mix = Reference("mix", 2, 2, rounded_to=text, rounds=(2, 3))
    trained, rounded, again = acting.advance(2, None, mix, mix)
    scheme = Scheme.parse(text)
    np.testing.assert_array_equal(trained, acting.by_hand(2, None, activations=False))
    np.testing.assert_array_equal(rounded, acting.by_hand(2, scheme, activations=bool(scheme.activation_bits)))
    np.testing.assert_array_equal(again, rounded)
    assert not np.array_equal(rounded, trained)


def test_rounded_activations_are_part_of_the_trained_network_and_not_of_what_leaves_its_class(acting: Acting) -> None:
    acting.prepare(WeightClass(Scheme.parse("int8+a8"), latent=True))
    scheme = Scheme.parse("int8")
    free = Reference("baseline", 2, 2, baseline="digest", free=True)
    trained, original = acting.advance(2, None, free, baseline=acting.part(2))
    np.testing.assert_array_equal(trained, acting.by_hand(2, scheme, activations=True))
    np.testing.assert_array_equal(original, acting.by_hand(2, None, activations=False))


@pytest.mark.parametrize(
    ("changes", "scheme", "activations"),
    [
        ({}, "int8", True),
        ({"free": True}, "int8", False),
    ],
    ids=["of its class", "in full precision"],
)
def test_a_solve_runs_its_block_as_the_reference_will(
    acting: Acting, changes: dict[str, Any], scheme: str, activations: bool
) -> None:
    """A solve in full precision must not round what enters its maps: its reference does not."""
    acting.prepare(WeightClass(Scheme.parse("int8+a8"), latent=True))
    assert _moved(acting, changes) == pytest.approx(_change(acting, scheme, activations), abs=1e-5)


def test_a_solve_for_what_if_starts_from_the_rounded_block(acting: Acting) -> None:
    acting.prepare()
    assert _moved(acting, {"rounded_to": "int3+a8"}) == pytest.approx(_change(acting, "int3", True), rel=1e-3)


def test_codes_that_move_are_counted_where_their_grid_is_held(acting: Acting) -> None:
    scheme = Scheme.parse("ternary-g16")
    low_bit = copy.deepcopy(acting.subject.whole)
    for index in range(1, acting.subject.blocks + 1):
        for linear in acting.subject.architecture.linear_maps(index):
            weight = low_bit.get_parameter(f"model.layers.{index - 1}.{linear.name}")
            weight.data = quantise(weight.data, scheme).contiguous()
    low_bit.save_pretrained(acting.directory / "low-bit")
    acting.checkpoint = opened(acting.directory, "low-bit")
    acting.prepare(WeightClass(scheme))
    assert _solved(acting, {})["codes_moved"] == 0.0
    moved = _solved(acting, {"learning_rate": 1.0})["codes_moved"]
    assert 0.0 < moved <= 1.0
    assert _solved(acting, {"free": True})["codes_moved"] is None


def test_products_of_rounding_are_those_of_the_rounded_output(acting: Acting) -> None:
    acting.prepare()
    subject = acting.subject
    arrays = subject.h(1), subject.h(2), subject.g(2)
    done = acting.worker.rounding_products(2, acting.part(2), "int3", *arrays)
    delta = acting.by_hand(2, Scheme.parse("int3"), activations=False) - subject.h(2)
    np.testing.assert_allclose(done.values["products"], (delta * subject.g(2)).sum(-1), rtol=1e-3, atol=1e-6)


def _moved(acting: Acting, changes: dict[str, Any]) -> float:
    """Σ⟨g, Δ⟩ of a solve that moves nothing, against the full-precision model's own states."""
    return -float(_solved(acting, changes)["predicted_gain"])


def _solved(acting: Acting, changes: dict[str, Any]) -> dict[str, Any]:
    settings = CorrectedSettings(**{**STEP.__dict__, **changes})
    subject = acting.subject
    documents = np.zeros(subject.ids.shape, np.int64)
    problem = CorrectedProblem("results/solution", TrainedBlock(2), settings)
    arrays = subject.h(1), subject.h(2), subject.g(2)
    return acting.worker.solve_corrected(problem, acting.part(2), documents, *arrays).values


def _change(acting: Acting, scheme: str, activations: bool) -> float:
    delta = acting.by_hand(2, Scheme.parse(scheme), activations=activations) - acting.subject.h(2)
    return float((delta * acting.subject.g(2)).sum(dtype=np.float64))
