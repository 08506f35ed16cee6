"""One row of the bench: what is measured on a copy, block by block, as plain numbers.

Rows hold evidence, no judgements, so that rules can be tried on them without measuring again.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from bench.damage.cases import Case, Copy
from bench.damage.detectors import Sums, Walked, walk
from bench.damage.solves import Solves, solved
from bench.damage.spectrum import block_alpha
from bench.damage.subject import Subject
from peelbound.service.statistics import PairedSums, paired_intervals, score
from peelbound.workers.spectrum import untouched

Row = dict[str, Any]
"""`kind`, `damaged` blocks, `text`, `loss` on check, `documents` of check, and `blocks`: a dictionary for each."""
SKIP_SEED = 1


def row_of(
    subject: Subject,
    case: Case,
    copy: Copy,
    name: str,
    weights: list[dict[str, Any]] | None = None,
    *,
    solves: Solves = Solves.ALL,
) -> Row:
    """Measure a copy on a text of the subject.

    Args:
        subject: model and texts.
        case: what was done to the copy.
        copy: the damaged blocks.
        name: of the text.
        weights: `weights_of(copy)` where it is known already.
        solves: what is solved of every block.
    """
    text = subject.texts[name]
    walked = walk(subject, copy, text)
    tokens = text.tokens()
    check = slice(text.fit_documents, None)
    skips = _skip_costs(walked, tokens, check)
    every = text.sums(np.ones(text.ids.shape, np.float32))
    by_solving: list[dict[str, Any]] = [{} for _ in walked.influence]
    if solves is not Solves.NONE:
        by_solving = solved(subject, text, walked.course, residuals=solves is Solves.ALL)
    blocks: list[dict[str, Any]] = []
    for at, alone in enumerate(weights or weights_of(copy)):
        scores = {kind: score(sums, every).model_dump() for kind, sums in walked.scores[at].items()}
        blocks.append(
            {
                "influence": walked.influence[at],
                "skip": skips[at],
                "scores": scores,
                "products": {kind: _short(walked.scores[at][kind]) for kind in ("attention", "mlp")},
                "agreement": agreement(walked.gradients[at]),
                **alone,
                **by_solving[at],
            }
        )
    return {
        "kind": case.kind,
        "damaged": list(case.blocks),
        "text": name,
        "loss": float(walked.losses[check].sum() / tokens[check].sum()),
        "documents": text.documents - text.fit_documents,
        "tokens": every.tolist(),
        "blocks": blocks,
    }


def weights_of(copy: Copy) -> list[dict[str, Any]]:
    """What the weights of each block alone say: the product's departure from random, and alpha."""
    return [{"spectrum": asdict(untouched(tensors)), "alpha": block_alpha(tensors)} for tensors in copy.blocks]


def agreement(gram: Sums) -> float:
    """Mean cosine similarity between the gradients of two different groups, from their Gram matrix [G, G]."""
    norms = np.sqrt(np.diagonal(gram))
    if not (norms > 0).all():
        return 0.0
    cosines = gram / np.outer(norms, norms)
    groups = len(gram)
    return float((cosines.sum() - groups) / (groups * (groups - 1)))


def _short(sums: Sums) -> list[float]:
    """Sums per document in six digits: rules are tried on them, and the files stay small."""
    return [float(f"{x:.6g}") for x in sums]


def _skip_costs(walked: Walked, tokens: Any, check: slice) -> list[dict[str, Any] | None]:
    measured = [at for at, sums in enumerate(walked.skip) if sums is not None]
    if not measured:
        return [None] * len(walked.skip)
    base = walked.losses[check]
    columns = [sums[check] - base for sums in walked.skip if sums is not None]
    paired = PairedSums(np.stack(columns, axis=1), tokens[check])
    found = paired_intervals(paired, replicates=2000, seed=SKIP_SEED).intervals
    by_block = dict(zip(measured, found, strict=True))
    return [by_block[at].model_dump() if at in by_block else None for at in range(len(walked.skip))]
