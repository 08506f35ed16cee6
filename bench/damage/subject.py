"""A checkpoint in memory with calibration data from one or more texts: what the damage bench measures on."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.damage.cases import Copy
from peelbound.service.controller.inputs import open_inputs
from peelbound.service.plan import make_plan
from peelbound.service.schemas.request import AuditRequest, Calibration, Provenance
from peelbound.service.settings import Settings
from peelbound.workers import passes
from peelbound.workers.calibration import Split, loss_mask
from peelbound.workers.passes import Floats
from peelbound.workers.skeleton import Skeleton

GRAIN = 8


@dataclass(frozen=True)
class Select:
    """Sequences that choices are made on."""

    ids: NDArray[np.int64]
    """[N, T]."""
    mask: NDArray[np.bool_]
    """[N, T−1]: predictions that count."""
    document: NDArray[np.int64]
    """[N, T]: as a text's; numbered from 0."""
    documents: int

    def sums(self, rows: Floats) -> NDArray[np.float64]:
        """Sums over each document of values per prediction, [N, T−1]."""
        return _sums(rows, self.document[:, 1:], self.documents)

    def tokens(self) -> NDArray[np.float64]:
        """Predictions that count, per document."""
        return self.sums(self.mask.astype(np.float32))


@dataclass(frozen=True)
class Text:
    """Fit and check as the product packs them, one after the other: what scores are computed on."""

    ids: NDArray[np.int64]
    """[N, T]."""
    mask: NDArray[np.bool_]
    """[N, T−1]: predictions that count."""
    document: NDArray[np.int64]
    """[N, T]: the document that owns a position's *prediction and state*, −1 for none."""
    documents: int
    fit_documents: int
    """They come first; the others are of check."""
    fit: int
    """How many of the N sequences are fit; the others are check."""
    select: "Select"
    """Choices are made on it."""

    @classmethod
    def of(cls, fit: Split, check: Split, select: Split) -> "Text":
        """Put two splits together, the third beside them; documents of check are numbered after those of fit."""
        later = np.where(check.document >= 0, check.document.astype(np.int64) + fit.documents, -1)
        return cls(
            ids=np.concatenate([fit.ids, check.ids]),
            mask=np.concatenate([loss_mask(fit), loss_mask(check)]),
            document=np.concatenate([fit.document.astype(np.int64), later]),
            documents=fit.documents + check.documents,
            fit_documents=fit.documents,
            fit=len(fit.ids),
            select=Select(select.ids, loss_mask(select), select.document.astype(np.int64), select.documents),
        )

    def sums(self, rows: Floats) -> NDArray[np.float64]:
        """Sums over each document of values per token, [N, T] or [N, T−1] (a prediction is its target's)."""
        owner = self.document if rows.shape[1] == self.ids.shape[1] else self.document[:, 1:]
        return _sums(rows, owner, self.documents)

    def tokens(self) -> NDArray[np.float64]:
        """Predictions that count, per document."""
        return self.sums(self.mask.astype(np.float32))


def _sums(rows: Floats, owner: NDArray[np.int64], documents: int) -> NDArray[np.float64]:
    owned = owner >= 0
    return np.bincount(owner[owned], weights=rows[owned].astype(np.float64), minlength=documents).astype(np.float64)


class Sequences(NamedTuple):
    """How many of 128 tokens each split has; the product's own numbers by default."""

    fit: int = 64
    select: int = 32
    check: int = 96


PRODUCTS = Sequences()


class Subject:
    """A checkpoint's skeleton, its blocks' tensors, and texts."""

    def __init__(self, checkpoint: Path, texts: dict[str, Path], sequences: Sequences = PRODUCTS) -> None:
        """Read everything.

        Args:
            checkpoint: a Hugging Face directory, or a GGUF file.
            texts: calibration files by name of the distribution.
            sequences: of each text.
        """
        self.texts: dict[str, Text] = {}
        for name, path in texts.items():
            request = AuditRequest(
                checkpoint=str(checkpoint.resolve()),
                calibration=Calibration(
                    uri=str(path.resolve()),
                    provenance=Provenance.UNSEEN,
                    fit_sequences=sequences.fit,
                    select_sequences=sequences.select,
                    check_sequences=sequences.check,
                ),
            )
            inputs = open_inputs(request, Settings(allow=[str(checkpoint.resolve()), str(path.resolve())]))
            splits = inputs.calibration.splits
            self.texts[name] = Text.of(splits["fit"], splits["check"], splits["select"])
        self.checkpoint = inputs.checkpoint
        self.blocks = self.checkpoint.architecture.block_count
        self.plan = make_plan(request, self.blocks, self.checkpoint.architecture.hidden_size)
        """The product's own settings for a model of this depth and width."""
        config = self.checkpoint.config
        self.heads: int = config.get("num_attention_heads") or config["n_head"]
        self.rotary = "rope_theta" in str(config)
        self.skeleton = Skeleton(self.checkpoint.architecture, self.checkpoint.read_part(0).tensors())
        self.sound = Copy([dict(self.checkpoint.read_part(i).tensors()) for i in range(1, self.blocks + 1)])

    def embed(self, text: Text) -> Floats:
        """h[0] of a text."""
        return passes.embed(self.skeleton, text.ids, GRAIN)
