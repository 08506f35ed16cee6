"""What takes a solve of every block: the gain of its reference, and how well a fresh block does its work.

By the workers' own solvers, as an audit has them, with one step size instead of several.
"""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.damage.detectors import Course, check_losses, onward
from bench.damage.subject import GRAIN, Subject, Text
from bench.damage.subjects import SIZE
from peelbound.service.plan import make_plan
from peelbound.service.schemas.request import AuditRequest, Calibration
from peelbound.service.statistics import PairedSums, excess_gain_intervals, paired_intervals
from peelbound.workers import passes, solver
from peelbound.workers.passes import Floats

_PLAN = make_plan(
    AuditRequest(checkpoint="/", calibration=Calibration(texts=["-"])), blocks=SIZE.blocks, hidden_size=SIZE.hidden
)
CORRECTED = replace(_PLAN.corrected[0], rho=0.3)
"""The product's own but for ρ, of which it tries 0.15 and 0.5; the zero step is a candidate here too."""
FRESH = replace(_PLAN.state, steps=160, halves=False)
"""Fewer steps than an audit's, and the block as a whole."""
INTERVAL_SEED = 1


def solved(subject: Subject, text: Text, course: Course) -> list[dict[str, Any]]:
    """`gain`, `excess_gain`, `rho` and `residual` of each block, as plain numbers.

    A gain is zero where select preferred the trained block. A residual is the relative error on check of a fresh block
    that was fitted to do what the trained one does (`solver.relative_error`).
    """
    fit, blocks = text.fit, subject.blocks
    tokens = text.tokens()[text.fit_documents :]
    base = check_losses(subject, text, course.loaded, blocks, course.states[-1][fit:])
    select = [passes.embed(subject.skeleton, text.select.ids, GRAIN)]
    for index, loaded in enumerate(course.loaded, start=1):
        select.append(passes.forward(subject.skeleton, index, loaded, select[-1], GRAIN))
    base_select = _select_loss(subject, text, course, blocks, select[-1])
    columns: list[NDArray[np.float64]] = []
    found: list[dict[str, Any]] = []
    for index in range(1, blocks + 1):
        before, after = course.states[index - 1], course.states[index]
        block = copy.deepcopy(course.loaded[index - 1])
        solver.solve_corrected(
            subject.skeleton, index, block, before[:fit], after[:fit], course.gradients[index][:fit],
            text.document[:fit], CORRECTED, GRAIN, lambda _: None,
        )  # fmt: skip
        moved = passes.forward(subject.skeleton, index, block, select[index - 1], GRAIN)
        taken = _select_loss(subject, text, course, index, moved) < base_select
        check = passes.forward(subject.skeleton, index, block, before[fit:], GRAIN)
        gain = base - check_losses(subject, text, course.loaded, index, check) if taken else np.zeros_like(base)
        columns.append(gain[text.fit_documents :])
        found.append(
            {"rho": CORRECTED.rho if taken else 0.0, "residual": _residual(subject, index, before, after, fit)}
        )
    gains = PairedSums(np.stack(columns, axis=1), tokens)
    joint = paired_intervals(gains, replicates=2000, seed=INTERVAL_SEED).intervals
    excess = excess_gain_intervals(gains, replicates=2000, seed=INTERVAL_SEED)
    assert excess is not None
    for values, gain_interval, excess_interval in zip(found, joint, excess.intervals, strict=True):
        values |= {"gain": gain_interval.model_dump(), "excess_gain": excess_interval.model_dump()}
    return found


def _residual(subject: Subject, index: int, before: Floats, after: Floats, fit: int) -> float:
    block = subject.skeleton.fresh_block(index, seed=index)
    solver.solve_state(
        subject.skeleton, index, block, before[:fit], after[:fit], FRESH, seed=index, on_step=lambda _: None
    )
    output = passes.forward(subject.skeleton, index, block, before[fit:], GRAIN)
    return solver.relative_error(output, after[fit:])


def _select_loss(subject: Subject, text: Text, course: Course, index: int, states: Floats) -> float:
    last = onward(subject, course.loaded, index, states)
    rows = passes.losses(subject.skeleton, last, text.select.ids, text.select.mask, GRAIN)
    return float(rows.sum(dtype=np.float64) / text.select.mask.sum())
