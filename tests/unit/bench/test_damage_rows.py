"""Rows are kept by what they depend on: checkpoint, texts, numbers of sequences, and whether blocks were solved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.damage import rows
from bench.damage.cases import Case
from bench.damage.rows import OTHER, UNSEEN, Source, kept, measured


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
        replace(source, fit=8),
        replace(source, check=8),
        replace(source, solves=False),
    ]
    assert len({s.rows_in(tmp_path) for s in (source, *others)}) == 6


def test_a_checkpoint_that_lies_elsewhere_is_the_same(source: Source, tmp_path: Path) -> None:
    moved = replace(source, path=checkpoint(tmp_path / "moved", "sound"))
    assert moved.rows_in(tmp_path) == source.rows_in(tmp_path)
    file = replace(source, path=text(tmp_path / "model.gguf", "weights"))
    assert file.rows_in(tmp_path) != source.rows_in(tmp_path)


def test_what_was_measured_at_the_same_settings_is_not_measured_again(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def row_of(
        subject: object, case: Case, copy: object, name: str, weights: object, *, solves: bool
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
    without = replace(source, solves=False)
    first = measured(without, tmp_path / "rows", 1, lambda _: None)
    assert measured(without, tmp_path / "rows", 1, lambda _: None) == first == kept(without, tmp_path / "rows")
    assert kept(source, tmp_path / "rows") == []
    assert len(measured(source, tmp_path / "rows", 1, lambda _: None)) == 2
    assert asked == [(UNSEEN, False), (OTHER, False), (UNSEEN, True), (OTHER, True)]
