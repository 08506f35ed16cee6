"""The tasks that solve: which block a solve starts from and runs, and what it says of codes."""

import copy
from typing import Any

import numpy as np
import pytest

from peelbound.workers.quantisers.quantise import quantise
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.quantisers.weight_class import WeightClass
from peelbound.workers.recipes import CorrectedSettings
from peelbound.workers.tasks import CorrectedProblem, TrainedBlock
from tests.unit.workers.harness import Acting, opened

STEP = CorrectedSettings(rho=0.5, steps=1, learning_rate=1e-12, gradient_clip=5.0, outlier=10.0)
"""Moves nothing: what a solution promises is then what it starts from."""


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
    assert _solved(acting, {"code_travel": 0.01})["codes_moved"] == 0.0
    assert 0.0 < _solved(acting, {})["codes_moved"] <= 1.0
    assert _solved(acting, {"free": True})["codes_moved"] is None


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
