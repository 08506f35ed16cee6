"""What takes a solve: a damaged block's reference wins most back, and a step that select refuses gains nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.damage import detectors, solves
from bench.damage.cases import Case, Copy, damaged
from bench.damage.detectors import Course, walk
from bench.damage.judges import DETECTORS
from bench.damage.measure import row_of
from bench.damage.peeling import Matrix
from bench.damage.rows import UNSEEN
from bench.damage.solves import Solves
from bench.damage.subject import Sequences, Subject
from bench.stdlib_corpus import Corpus, prepare_corpus
from bench.stdlib_models import ModelSize, Recipe, train
from peelbound.service.plan import make_plan
from peelbound.service.schemas.request import AuditRequest, Calibration
from peelbound.workers import solver
from peelbound.workers.recipes import CorrectedSettings, StateSettings

SIZE = ModelSize(hidden=32, intermediate=48, blocks=3, heads=2)
NOISE = Case("noise 2.0", (2,), 1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare_corpus(tmp_path_factory.mktemp("corpus"), vocabulary=300, held_out_files=40, train_files=6)


@pytest.fixture(scope="module")
def checkpoint(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(size=SIZE, steps=30, save_at=(30,), batch=8, sequence_length=64)
    (path,) = [s.checkpoint for s in train(corpus, recipe, tmp_path_factory.mktemp("run")) if s.checkpoint]
    return path


@pytest.fixture(scope="module")
def subject(checkpoint: Path, corpus: Corpus) -> Subject:
    return Subject(checkpoint, {UNSEEN: corpus.held_out_path}, Sequences(fit=16, check=16))


@pytest.fixture(scope="module")
def noised(subject: Subject) -> Copy:
    return damaged(subject.skeleton, subject.sound, NOISE, subject.heads)


@pytest.fixture(scope="module")
def course(subject: Subject, noised: Copy) -> Course:
    return walk(subject, noised, subject.texts[UNSEEN]).course


@pytest.fixture(autouse=True)
def few_steps(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are solved for a moment only: what they reach is not what is tested."""
    monkeypatch.setattr(solves, "FRESH_STEPS", 1)
    with_steps(subject, monkeypatch, steps=4)


def with_steps(subject: Subject, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change how blocks are re-solved."""
    corrected = tuple(replace(settings, **changes) for settings in subject.plan.corrected)
    monkeypatch.setattr(subject, "plan", replace(subject.plan, corrected=corrected))


def test_the_damaged_blocks_reference_gains_most_and_is_named(subject: Subject, noised: Copy) -> None:
    before = [{name: tensor.clone() for name, tensor in tensors.items()} for tensors in noised.blocks]
    blocks = row_of(subject, NOISE, noised, UNSEEN)["blocks"]
    gains = [b["gain"]["estimate"] for b in blocks]
    assert max(range(3), key=gains.__getitem__) == 1
    named = DETECTORS["gain of the block reference, high"](blocks)
    assert max(range(3), key=named.__getitem__) == 1
    for tensors, kept in zip(noised.blocks, before, strict=True):  # measuring leaves the copy as it was
        assert all(torch.equal(tensor, kept[name]) for name, tensor in tensors.items())


def test_every_step_of_an_audit_is_tried_and_select_chooses(
    subject: Subject, course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def solve(*arguments: Any) -> None:
        """Undo the damage with one step, and do nothing with the other."""
        index, block = arguments[1:3]
        (rho,) = (a.rho for a in arguments if isinstance(a, CorrectedSettings))
        tried.append(rho)
        if rho == good:
            block.load_state_dict(subject.sound.load(subject.skeleton, index).state_dict())

    monkeypatch.setattr(solver, "solve_corrected", solve)
    for good in (0.15, 0.5):
        found = solves.solved(subject, subject.texts[UNSEEN], course, residuals=False)
        assert [block["rho"] for block in found] == [0.0, good, 0.0]
    assert tried == [0.15, 0.5] * 6


def test_a_step_that_select_refuses_gains_nothing(
    subject: Subject, course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_steps(subject, monkeypatch, learning_rate=10.0)
    for block in solves.solved(subject, subject.texts[UNSEEN], course, residuals=False):
        assert block["rho"] == 0.0
        assert block["gain"]["estimate"] == block["gain"]["high"] == 0.0


def test_residuals_are_of_fresh_blocks_solved_at_the_settings_of_an_audit(
    subject: Subject, course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    def residuals() -> list[float]:
        return [block["residual"] for block in solves.solved(subject, subject.texts[UNSEEN], course, residuals=True)]

    used: list[StateSettings] = []
    solve = solver.solve_state

    def noted(*arguments: Any, **named: Any) -> None:
        used.extend(a for a in arguments if isinstance(a, StateSettings))
        solve(*arguments, **named)

    monkeypatch.setattr(subject, "plan", replace(subject.plan, corrected=()))
    monkeypatch.setattr(solves, "FRESH_STEPS", 8)
    monkeypatch.setattr(solver, "solve_state", noted)
    found = residuals()
    assert used == [replace(subject.plan.state, steps=8, halves=False)] * SIZE.blocks
    monkeypatch.setattr(solver, "solve_state", lambda *_, **__: None)
    # A trained block that is not solved has none.
    assert all(0.01 < start < 10.0 and after < start for after, start in zip(found, residuals(), strict=True))


def test_cells_of_the_peeling_matrix_are_solved_at_the_settings_of_an_audit(
    checkpoint: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[StateSettings] = []

    def solve(*arguments: Any, **_: Any) -> None:
        used.extend(a for a in arguments if isinstance(a, StateSettings))

    monkeypatch.setattr(solver, "solve_state", solve)
    matrix = Matrix(checkpoint, corpus)
    matrix.solved(0)
    plan = make_plan(AuditRequest(checkpoint="/", calibration=Calibration(texts=["-"])), SIZE.blocks, SIZE.hidden)
    assert matrix.subject.plan == plan
    assert used == [plan.state]


def test_without_solves_nothing_is_known_of_gains(subject: Subject) -> None:
    found = row_of(subject, Case("sound"), subject.sound, UNSEEN, solves=Solves.NONE)
    assert all("gain" not in b and "residual" not in b for b in found["blocks"])
    assert DETECTORS["verdict"](found["blocks"])


def test_without_residuals_no_fresh_block_is_solved(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(*_: Any, **__: Any) -> None:
        raise AssertionError("a fresh block is solved")

    whole = row_of(subject, Case("sound"), subject.sound, UNSEEN)
    assert all(block.pop("residual") > 0 for block in whole["blocks"])
    monkeypatch.setattr(solver, "solve_state", solve)
    assert row_of(subject, Case("sound"), subject.sound, UNSEEN, solves=Solves.GAINS) == whole


@pytest.mark.parametrize(("fit", "groups"), [(16, 8), (9, 5), (4, 4)])
def test_each_group_of_sequences_has_its_gradient(
    fit: int, groups: int, checkpoint: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Subject(checkpoint, {UNSEEN: corpus.held_out_path}, Sequences(fit=fit, check=5))
    found = walk(few, few.sound, few.texts[UNSEEN]).gradients
    monkeypatch.setattr(detectors, "GROUPS", 1)
    whole = walk(few, few.sound, few.texts[UNSEEN]).gradients
    for gram, total in zip(found, whole, strict=True):
        assert gram.shape == (groups, groups)
        assert (np.diagonal(gram) > 0).all()
        assert gram.sum() == pytest.approx(float(total[0, 0]), rel=1e-4)
