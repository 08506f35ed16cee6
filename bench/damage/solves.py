"""What takes a solve of every block: the gain of its reference, and how well a fresh block does its work.

By the workers' own solvers, at the settings of an audit of the model's depth and width.
"""

import copy
from dataclasses import replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.damage.detectors import Course, check_losses, onward
from bench.damage.subject import GRAIN, Subject, Text
from peelbound.service.statistics import PairedSums, excess_gain_intervals, paired_intervals
from peelbound.workers import passes, solver
from peelbound.workers.passes import Floats


class Solves(StrEnum):
    """What is solved of every block."""

    NONE = "none"
    GAINS = "gains"
    ALL = "all"
    """Gains and residuals."""


FRESH_STEPS = 160
"""Of a fresh block that is solved as a whole: an audit takes more, a half after the other."""
INTERVAL_SEED = 1


def solved(subject: Subject, text: Text, course: Course, *, residuals: bool) -> list[dict[str, Any]]:
    """`gain`, `excess_gain`, `rho` and, where it is asked for, `residual` of each block, as plain numbers.

    Of the steps ρ that an audit tries, the one that is best on select is taken; ρ and gain are zero where select
    preferred the trained block. A residual is the relative error on check of a fresh block that was fitted to do what
    the trained one does (`solver.relative_error`).
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
        best, rho, block = base_select, 0.0, course.loaded[index - 1]
        for settings in subject.plan.corrected:
            candidate = copy.deepcopy(course.loaded[index - 1])
            solver.solve_corrected(
                subject.skeleton, index, candidate, before[:fit], after[:fit], course.gradients[index][:fit],
                text.document[:fit], settings, GRAIN, lambda _: None,
            )  # fmt: skip
            moved = passes.forward(subject.skeleton, index, candidate, select[index - 1], GRAIN)
            loss = _select_loss(subject, text, course, index, moved)
            if loss < best:
                best, rho, block = loss, settings.rho, candidate
        gain = np.zeros_like(base)
        if rho:
            check = passes.forward(subject.skeleton, index, block, before[fit:], GRAIN)
            gain = base - check_losses(subject, text, course.loaded, index, check)
        columns.append(gain[text.fit_documents :])
        found.append({"rho": rho})
        if residuals:
            found[-1]["residual"] = _residual(subject, index, before, after, fit)
    gains = PairedSums(np.stack(columns, axis=1), tokens)
    joint = paired_intervals(gains, replicates=2000, seed=INTERVAL_SEED).intervals
    excess = excess_gain_intervals(gains, replicates=2000, seed=INTERVAL_SEED)
    assert excess is not None
    for values, gain_interval, excess_interval in zip(found, joint, excess.intervals, strict=True):
        values |= {"gain": gain_interval.model_dump(), "excess_gain": excess_interval.model_dump()}
    return found


def _residual(subject: Subject, index: int, before: Floats, after: Floats, fit: int) -> float:
    settings = replace(subject.plan.state, steps=FRESH_STEPS, halves=False)
    block = subject.skeleton.fresh_block(index, seed=index)
    solver.solve_state(
        subject.skeleton, index, block, before[:fit], after[:fit], settings, seed=index, on_step=lambda _: None
    )
    output = passes.forward(subject.skeleton, index, block, before[fit:], GRAIN)
    return solver.relative_error(output, after[fit:])


def _select_loss(subject: Subject, text: Text, course: Course, index: int, states: Floats) -> float:
    last = onward(subject, course.loaded, index, states)
    rows = passes.losses(subject.skeleton, last, text.select.ids, text.select.mask, GRAIN)
    return float(rows.sum(dtype=np.float64) / text.select.mask.sum())
