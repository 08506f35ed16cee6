"""What takes a solve: a damaged block's reference wins most back, and a step that select refuses gains nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.damage import solves
from bench.damage.cases import Case, Copy, damaged
from bench.damage.judges import DETECTORS
from bench.damage.measure import Row, row_of
from bench.damage.rows import UNSEEN
from bench.damage.subject import Subject
from bench.stdlib_models import ModelSize, Recipe, prepare_corpus, train

SIZE = ModelSize(hidden=32, intermediate=48, blocks=3, heads=2)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh blocks are solved for a moment only: what they reach is not what is tested."""
    monkeypatch.setattr(solves, "FRESH", replace(solves.FRESH, steps=20))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    directory = tmp_path_factory.mktemp("solves")
    corpus = prepare_corpus(directory / "corpus", vocabulary=300, held_out_files=40, train_files=6)
    recipe = Recipe(size=SIZE, steps=30, save_at=(30,), batch=8, sequence_length=64)
    (checkpoint,) = [s.checkpoint for s in train(corpus, recipe, directory / "run") if s.checkpoint]
    return Subject(Path(checkpoint), {UNSEEN: corpus.held_out_path}, fit=16, check=24)


def row(subject: Subject, case: Case) -> Row:
    copy: Copy = damaged(subject.skeleton, subject.sound, case, subject.heads)
    return row_of(subject, case, copy, UNSEEN)


def test_the_damaged_blocks_reference_gains_most_and_is_named(subject: Subject) -> None:
    found = row(subject, Case("noise 2.0", (2,), 1))
    gains = [b["gain"]["estimate"] for b in found["blocks"]]
    assert max(range(3), key=gains.__getitem__) == 1
    named = DETECTORS["gain of the block reference, high"](found["blocks"])
    assert max(range(3), key=named.__getitem__) == 1


def test_measuring_leaves_the_copy_as_it_was(subject: Subject) -> None:
    assert row(subject, Case("sound")) == row(subject, Case("sound"))


def test_a_step_that_select_refuses_gains_nothing(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solves, "CORRECTED", replace(solves.CORRECTED, learning_rate=10.0))
    for block in row(subject, Case("sound"))["blocks"]:
        assert block["rho"] == 0.0
        assert block["gain"]["estimate"] == block["gain"]["high"] == 0.0


def test_residuals_are_of_fresh_blocks(subject: Subject) -> None:
    residuals = [b["residual"] for b in row(subject, Case("sound"))["blocks"]]
    assert all(0.0 < r < 1.0 for r in residuals)


def test_without_solves_nothing_is_known_of_gains(subject: Subject) -> None:
    found = row_of(subject, Case("sound"), subject.sound, UNSEEN, solves=False)
    assert all("gain" not in b and "residual" not in b for b in found["blocks"])
    assert DETECTORS["verdict"](found["blocks"])
