"""Rows of the bench on disk; what is there is not measured again.

A file is of one checkpoint, one choice of texts and numbers of sequences, with solves or without, and of the code that
measures, with its settings: its name says so by a digest. So rows that were measured otherwise are never taken for
those that are asked for, nor shown beside them. The rules that are tried on rows are no part of it.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from bench.damage import cases, detectors, measure, solves, spectrum
from bench.damage.cases import FROZEN, SOUND, Case, cases_of, damaged
from bench.damage.digests import code, digest, name_of
from bench.damage.measure import Row, row_of, weights_of
from bench.damage.solves import Solves
from bench.damage.subject import PRODUCTS, Sequences, Subject
from bench.local import save
from peelbound.service import statistics

UNSEEN, OTHER = "unseen", "other"
"""Names of the texts: of the distribution that training saw, and of another one."""


@dataclass(frozen=True)
class Source:
    """A model to damage, and the texts it is measured on."""

    name: str
    role: str
    path: Path
    texts: dict[str, Path]
    seed: int
    """Of the choice of blocks, and of the damage that is random."""
    sequences: Sequences = PRODUCTS
    frozen: int | None = None
    """A block that training left out: then the model is a case of its own, and no copies are made."""
    solves: Solves = Solves.ALL

    def rows_in(self, out: Path) -> Path:
        """The file of its rows, named by the model and by all that a row depends on."""
        texts = {name: digest(path) for name, path in self.texts.items()}
        measuring = code(cases, detectors, measure, solves, spectrum, statistics)
        asked = [digest(self.path), texts, self.seed, *self.sequences, self.solves, measuring]
        return out / f"{self.name}-{name_of(asked)}.json"


def measured(
    source: Source,
    out: Path,
    positions: int,
    say: Callable[[str], None],
    kinds: Collection[str] | None = None,
) -> list[Row]:
    """Rows of one model; those that are missing are measured now, and kept one by one.

    Args:
        source: the model.
        out: where its rows lie.
        positions: blocks that each kind of damage is done to.
        say: told of each copy that was measured.
        kinds: of damage, beside the sound model; all by default.
    """
    path, rows = source.rows_in(out), kept(source, out)
    have = {(r["kind"], tuple(r["damaged"]), r["text"]) for r in rows}
    subject = Subject(source.path, source.texts, source.sequences)
    for case in _cases(source, subject, positions):
        missing = [name for name in source.texts if (case.kind, case.blocks, name) not in have]
        if not missing or not (kinds is None or case.kind in (SOUND, FROZEN, *kinds)):
            continue
        frozen = case.kind == FROZEN
        copy = subject.sound if frozen else damaged(subject.skeleton, subject.sound, case, subject.heads)
        weights = weights_of(copy)
        for name in missing:
            row = row_of(subject, case, copy, name, weights, solves=source.solves)
            rows.append({"subject": source.name, "role": source.role, **row})
        save(path, rows)
        say(f"{source.name}: {case.kind} {case.blocks or ''}")
    return rows


def kept(source: Source, out: Path) -> list[Row]:
    """The rows that were measured already."""
    path = source.rows_in(out)
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def _cases(source: Source, subject: Subject, positions: int) -> list[Case]:
    if source.frozen is not None:
        return [Case(FROZEN, (source.frozen,))]
    return cases_of(subject.blocks, subject.rotary, source.seed, positions)
