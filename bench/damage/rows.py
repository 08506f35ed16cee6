"""Rows of the bench on disk, one file a model; what is there is not measured again."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from bench.damage.cases import FROZEN, SOUND, Case, cases_of, damaged
from bench.damage.measure import Row, row_of, weights_of
from bench.damage.subject import Subject
from bench.local import save

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
    """Of the choice of blocks."""
    fit: int = 64
    check: int = 96
    """Sequences of 128 tokens."""
    frozen: int | None = None
    """A block that training left out: then the model is a case of its own, and no copies are made."""


def measured(
    source: Source,
    out: Path,
    positions: int,
    say: Callable[[str], None],
    kinds: Collection[str] | None = None,
    *,
    solves: bool = True,
) -> list[Row]:
    """Rows of one model; those that are missing are measured now, and kept one by one.

    Args:
        source: the model.
        out: where its rows lie.
        positions: blocks that each kind of damage is done to.
        say: told of each copy that was measured.
        kinds: of damage, beside the sound model; all by default.
        solves: whether gains and residuals are measured.
    """
    path = out / f"{source.name}.json"
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    have = {(r["kind"], tuple(r["damaged"]), r["text"]) for r in rows}
    subject = Subject(source.path, source.texts, source.fit, source.check)
    for case in _cases(source, subject, positions):
        missing = [name for name in source.texts if (case.kind, case.blocks, name) not in have]
        if not missing or not (kinds is None or case.kind in (SOUND, FROZEN, *kinds)):
            continue
        frozen = case.kind == FROZEN
        copy = subject.sound if frozen else damaged(subject.skeleton, subject.sound, case, subject.heads)
        weights = weights_of(copy)
        for name in missing:
            row = row_of(subject, case, copy, name, weights, solves=solves)
            rows.append({"subject": source.name, "role": source.role, **row})
        save(path, rows)
        say(f"{source.name}: {case.kind} {case.blocks or ''}")
    return rows


def read(out: Path) -> list[Row]:
    """All rows of models that were trained here."""
    found = []
    for path in sorted(out.glob("*.json")):
        if not path.name.startswith("checkpoint-"):
            found += json.loads(path.read_text(encoding="utf-8"))
    return found


def _cases(source: Source, subject: Subject, positions: int) -> list[Case]:
    if source.frozen is not None:
        return [Case(FROZEN, (source.frozen,))]
    return cases_of(subject.blocks, subject.rotary, source.seed, positions)
