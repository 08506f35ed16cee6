"""Figures are kept by what they depend on: checkpoint, texts, settings, and the code that measures."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bench.damage import detectors, digests, judges, peeling, rows, solves
from bench.damage.cases import Case
from bench.damage.digests import code
from bench.damage.peeling import _kept_at
from bench.damage.rows import OTHER, UNSEEN, Source, kept, measured
from bench.damage.solves import Solves
from bench.damage.subject import PRODUCTS
from bench.stdlib_corpus import Corpus
from peelbound.service import plan, statistics
from peelbound.service.schemas import request


def checkpoint(directory: Path, weights: str) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_text(weights)
    return directory


def text(path: Path, words: str) -> Path:
    path.write_text(words)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(
        "checkpoint-step-300",
        "report",
        checkpoint(tmp_path / "sound" / "step-300", "sound"),
        {UNSEEN: text(tmp_path / "unseen.jsonl", "one"), OTHER: text(tmp_path / "other.jsonl", "two")},
        seed=0,
    )


def test_checkpoints_of_one_name_and_other_settings_have_rows_of_their_own(source: Source, tmp_path: Path) -> None:
    others = [
        replace(source, path=checkpoint(tmp_path / "frozen" / "step-300", "frozen")),
        replace(source, texts={UNSEEN: text(tmp_path / "mine.jsonl", "three"), OTHER: source.texts[OTHER]}),
        *(replace(source, sequences=PRODUCTS._replace(**{split: 8})) for split in PRODUCTS._fields),
        *(replace(source, solves=solves) for solves in (Solves.NONE, Solves.GAINS)),
        replace(source, seed=1),
    ]
    assert len({s.rows_in(tmp_path) for s in (source, *others)}) == 9


def test_a_checkpoint_that_lies_elsewhere_is_the_same(source: Source, tmp_path: Path) -> None:
    moved = replace(source, path=checkpoint(tmp_path / "moved", "sound"))
    assert moved.rows_in(tmp_path) == source.rows_in(tmp_path)
    file = replace(source, path=text(tmp_path / "model.gguf", "weights"))
    assert file.rows_in(tmp_path) != source.rows_in(tmp_path)


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ModuleType], None]]:
    """Gives a module another source, as in a process that starts after it was changed."""

    def change(module: ModuleType) -> None:
        monkeypatch.setattr(module, "__file__", str(text(tmp_path / "changed.py", "")))
        code.cache_clear()

    code.cache_clear()
    yield change
    code.cache_clear()


@pytest.mark.parametrize("module", [detectors, solves, plan, request])
def test_rows_that_other_code_measured_are_not_these(
    module: ModuleType, source: Source, tmp_path: Path, changed: Callable[[ModuleType], None]
) -> None:
    before = source.rows_in(tmp_path)
    changed(module)
    assert source.rows_in(tmp_path) != before


def test_rows_stay_when_a_rule_that_reads_them_changes(
    source: Source, tmp_path: Path, changed: Callable[[ModuleType], None]
) -> None:
    before = source.rows_in(tmp_path)
    changed(judges)
    assert source.rows_in(tmp_path) == before


@pytest.mark.usefixtures("changed")
def test_rows_of_other_workers_are_not_these(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "source_hash", lambda package: f"other {package}")
    other = source.rows_in(tmp_path)
    monkeypatch.undo()
    code.cache_clear()
    assert source.rows_in(tmp_path) != other


@pytest.mark.parametrize("module", [plan, peeling, statistics])
def test_a_peeling_matrix_is_kept_by_checkpoint_texts_and_code(
    module: ModuleType, source: Source, tmp_path: Path, changed: Callable[[ModuleType], None]
) -> None:
    corpora = [Corpus(checkpoint(tmp_path / name, name), torch.zeros(0)) for name in ("corpus", "other corpus")]
    other = checkpoint(tmp_path / "other", "other")
    places = [_kept_at("llama", source.path, tmp_path, corpus) for corpus in corpora]
    places.append(_kept_at("llama", other, tmp_path, corpora[0]))
    changed(module)
    places.append(_kept_at("llama", source.path, tmp_path, corpora[0]))
    assert len(set(places)) == 4


def test_what_was_measured_at_the_same_settings_is_not_measured_again(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Solves]] = []

    def row_of(
        subject: object, case: Case, copy: object, name: str, weights: object, *, solves: Solves
    ) -> dict[str, Any]:
        asked.append((name, solves))
        return {"kind": case.kind, "damaged": list(case.blocks), "text": name}

    class Model:
        sound = skeleton = heads = None

        def __init__(self, *_: object) -> None: ...

    monkeypatch.setattr(rows, "Subject", Model)
    monkeypatch.setattr(rows, "_cases", lambda *_: [Case("sound")])
    monkeypatch.setattr(rows, "damaged", lambda *_: None)
    monkeypatch.setattr(rows, "weights_of", lambda _: [])
    monkeypatch.setattr(rows, "row_of", row_of)
    without = replace(source, solves=Solves.NONE)
    first = measured(without, tmp_path / "rows", 1, lambda _: None)
    assert measured(without, tmp_path / "rows", 1, lambda _: None) == first == kept(without, tmp_path / "rows")
    assert kept(source, tmp_path / "rows") == []
    assert len(measured(replace(source, solves=Solves.GAINS), tmp_path / "rows", 1, lambda _: None)) == 2
    assert asked == [(name, s) for s in (Solves.NONE, Solves.GAINS) for name in (UNSEEN, OTHER)]
