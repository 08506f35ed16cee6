"""One checkpoint's reference networks by any number of target maps, in this process, with the product's own numerics.

The papers measure on the tokens that training saw. So here *fit* is cut from training documents, while select and check
are cut from documents that training never saw, and every network is measured on fit and on check.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.papers.text import Text
from peelbound.service.controller.inputs import Inputs, open_inputs
from peelbound.service.plan import Anchors, Node, make_plan, map_name, target_map, trie
from peelbound.service.schemas.request import AuditOptions, AuditRequest, Calibration, Provenance
from peelbound.service.settings import Settings
from peelbound.service.statistics import PairedSums, paired_intervals
from peelbound.workers import head, passes, solver
from peelbound.workers.blame import SOLVED
from peelbound.workers.calibration import Split, loss_mask
from peelbound.workers.keys import seed_of
from peelbound.workers.passes import Floats
from peelbound.workers.quantisers.latents import Latents
from peelbound.workers.recipes import HeadSettings, StateSettings
from peelbound.workers.skeleton import Skeleton
from peelbound.workers.weight_detection import Finding, detect

SPLITS = ("fit", "select", "check")
_GRAIN = 8
_REPLICATES = 2000
"""Of the bootstrap."""

States = dict[str, Floats]
"""Hidden states [N, T, D] by split."""


@dataclass(frozen=True)
class Sizes:
    """Sequences of 128 tokens by split, and steps of the head's refit."""

    fit: int = 64
    select: int = 24
    check: int = 64
    head_steps: int = 20


@dataclass(frozen=True)
class Difference:
    """A paired difference of losses on check in nats per token, with its own 95% interval, documents as clusters."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        """As tables show it: `+0.283 (+0.265 to +0.301)`."""
        return f"{self.estimate:+.3f} ({self.low:+.3f} to {self.high:+.3f})".replace("-", "−")


@dataclass(frozen=True)
class Losses:
    """Cross-entropy in nats per token of one network; `refitted` after norm and head were refitted on fit."""

    fit: float
    check: float
    fit_refitted: float
    check_refitted: float
    select: float
    select_refitted: float
    gain: Difference
    """CE(trained) − CE(this network), with the head that is better on select."""
    beyond_control: Difference
    """CE(head control) − CE(this network), likewise: what the blocks gain that the head alone does not."""

    @classmethod
    def load(cls, value: Mapping[str, Any]) -> "Losses":
        """From what `asdict` made of it."""
        differences = {name: Difference(**value[name]) for name in ("gain", "beyond_control")}
        return cls(**{**value, **differences})

    @property
    def chosen(self) -> float:
        """On check, with the head that is better on select."""
        return self.check_refitted if self.select_refitted < self.select else self.check


@dataclass(frozen=True)
class Reference:
    """A reference network."""

    anchors: Anchors
    losses: Losses
    residuals: tuple[float, ...]
    """Per block: squared error against its target over the target's variance, on fit."""

    @property
    def name(self) -> str:
        """`direct`, `YES-0`, `YES-1 {2}` …"""
        return map_name(self.anchors)

    @property
    def targets(self) -> str:
        """The map as the papers write it, e.g. [2,2,3,4]."""
        return f"[{','.join(map(str, target_map(self.anchors)))}]"


@dataclass(frozen=True)
class Peeling:
    """One checkpoint and its reference networks."""

    control: Losses
    """The trained network; refitted: the head control."""
    references: tuple[Reference, ...]
    weights: str
    """The weight class that was found in the checkpoint and that the references live in."""

    def in_sample(self) -> Reference:
        """The papers' bound: the smallest loss on fit, head refitted."""
        return min(self.references, key=lambda r: r.losses.fit_refitted)

    def selected(self) -> Reference:
        """The reference network, with its better head, that is best on select: the one that check may speak of."""
        return min(self.references, key=lambda r: min(r.losses.select, r.losses.select_refitted))

    def zero(self) -> Reference:
        """YES-0."""
        return next(r for r in self.references if len(r.anchors) == 1)


class Lab:
    """A checkpoint's trained states on fit, select and check."""

    def __init__(self, checkpoint: Path, text: Text, sizes: Sizes) -> None:
        seen = _open(checkpoint, text.training_path, {"fit": sizes.fit, "select": 1, "check": 1})
        unseen = _open(checkpoint, text.held_out_path, {"fit": 1, "select": sizes.select, "check": sizes.check})
        self.checkpoint = seen.checkpoint
        self.splits: dict[str, Split] = {
            "fit": seen.calibration.splits["fit"],
            **{name: unseen.calibration.splits[name] for name in ("select", "check")},
        }
        self.masks = {name: loss_mask(split) for name, split in self.splits.items()}
        self.blocks = self.checkpoint.architecture.block_count
        self.skeleton = Skeleton(self.checkpoint.architecture, self.checkpoint.read_part(0).tensors())
        self.found = self._weight_class()
        self.trained: dict[str, list[Floats]] = {
            name: [passes.embed(self.skeleton, split.ids, _GRAIN)] for name, split in self.splits.items()
        }
        self.middles: dict[int, Floats | None] = {}
        for index in range(1, self.blocks + 1):
            block = self.skeleton.load_block(index, self.checkpoint.read_part(index).tensors())
            self.middles[index] = passes.middle(self.skeleton, index, block, self.trained["fit"][-1], _GRAIN)
            for rows in self.trained.values():
                rows.append(passes.forward(self.skeleton, index, block, rows[-1], _GRAIN))
        self._rows_trained = self._rows({name: rows[-1] for name, rows in self.trained.items()}, None)

    def _weight_class(self) -> Finding:
        """The product's own finding, from the rounded weights alone: references are solved in it."""
        first, maps = self.checkpoint.read_part(1), self.checkpoint.architecture.linear_maps(1)
        return detect(maps, first.tensors(), first.grids(), self.checkpoint.encoding, asked=None)

    def peel(self, maps: Sequence[Anchors], state: StateSettings, head_settings: HeadSettings) -> Peeling:
        """Build the reference networks of these maps; peel problems that they share are solved once."""
        children: dict[tuple[int, ...], list[Node]] = {}
        for node in trie(maps):
            children.setdefault(node.parent, []).append(node)
        by_path = {target_map(anchors): anchors for anchors in maps}
        references: list[Reference] = []
        last = {name: rows[-1] for name, rows in self.trained.items()}
        control, control_rows = self._measured(last, head_settings)

        def descend(path: tuple[int, ...], states: States, residuals: tuple[float, ...]) -> None:
            if len(path) == self.blocks:
                losses, _ = self._measured(states, head_settings, control_rows)
                references.append(Reference(by_path[path], losses, residuals))
            for node in children.get(path, ()):
                _, outputs = self.solve(node, states, state)
                error = solver.relative_error(outputs["fit"], self.trained["fit"][node.target])
                descend(node.path, outputs, (*residuals, error))

        descend((), {name: rows[0] for name, rows in self.trained.items()}, ())
        order = {anchors: position for position, anchors in enumerate(maps)}
        return Peeling(
            control, tuple(sorted(references, key=lambda r: order[r.anchors])), str(self.found.weights.scheme)
        )

    def solve(self, node: Node, states: States, settings: StateSettings) -> tuple[nn.Module, States]:
        """Solve one peel problem on these inputs; the block, and its outputs."""
        seed = seed_of(0, "block", node.block)
        block = self.skeleton.fresh_block(node.block, seed)
        target = self.trained["fit"][node.target]
        maps = self.checkpoint.architecture.linear_maps(node.block)
        latents = Latents(block, self.found.weights.fresh(maps))
        middle = self.middles[node.block] if node.target == node.block else None
        solver.solve_state(
            self.skeleton, node.block, block, states["fit"], target, settings, seed, lambda _: None, latents, middle
        )
        return block, {
            name: passes.forward(self.skeleton, node.block, block, rows, _GRAIN, whose=SOLVED)
            for name, rows in states.items()
        }

    def _measured(self, states: States, settings: HeadSettings, control: Floats | None = None) -> tuple[Losses, Floats]:
        """With the model's head, and with the head refitted on fit for as long as fit gets better, as in the papers.

        Args:
            states: h[K] of the network.
            settings: of the refit.
            control: the head control's losses on check [N, T−1]; None: these states are the head control's.

        Returns:
            The losses, and those of every token of check [N, T−1] with the head that is better on select.
        """
        fit = head.HeadData(states["fit"], self.splits["fit"].ids, self.masks["fit"])
        found = head.refit(self.skeleton, fit, fit, settings, seed_of(0, "head"), _GRAIN, lambda _: None)
        plain, refitted = self._rows(states, None), self._rows(states, found.parameters)
        means = {name: self._mean(name, rows) for name, rows in plain.items()}
        means_refitted = {name: self._mean(name, rows) for name, rows in refitted.items()}
        better = (refitted if means_refitted["select"] < means["select"] else plain)["check"]
        losses = Losses(
            fit=means["fit"],
            check=means["check"],
            fit_refitted=means_refitted["fit"],
            check_refitted=means_refitted["check"],
            select=means["select"],
            select_refitted=means_refitted["select"],
            gain=self._difference(self._rows_trained["check"] - better),
            beyond_control=self._difference((better if control is None else control) - better),
        )
        return losses, better

    def _rows(self, states: States, parameters: Mapping[str, torch.Tensor] | None) -> States:
        """Losses of every token [N, T−1] by split."""
        changed = None if parameters is None else dict(parameters)
        return {
            name: passes.losses(self.skeleton, rows, self.splits[name].ids, self.masks[name], _GRAIN, changed)
            for name, rows in states.items()
        }

    def _mean(self, split: str, rows: Floats) -> float:
        return float(rows.sum(dtype=np.float64) / self.masks[split].sum())

    def _difference(self, rows: Floats) -> Difference:
        """Of two networks' losses of every token of check, [N, T−1]."""
        where, mask = self.splits["check"], self.masks["check"]
        document = where.document[:, 1:][mask]

        def by_document(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.bincount(document, weights=values, minlength=where.documents).astype(np.float64)

        sums = by_document(rows[mask].astype(np.float64))
        paired = PairedSums(sums[:, None], by_document(np.ones(len(document))))
        (interval,) = paired_intervals(paired, replicates=_REPLICATES, seed=0).intervals
        return Difference(interval.estimate, interval.low, interval.high)


def settings(blocks: int, hidden: int, sizes: Sizes) -> tuple[StateSettings, HeadSettings]:
    """The product's own solver settings, for a head that is looked at once, at its last step."""
    request = AuditRequest(
        checkpoint="/", calibration=Calibration(texts=["-"]), options=AuditOptions(head_steps=sizes.head_steps)
    )
    plan = make_plan(request, blocks, hidden)
    return plan.state, replace(plan.head, evaluations=1)


def _open(checkpoint: Path, documents: Path, budgets: Mapping[str, int]) -> Inputs:
    where = str(checkpoint.resolve()), str(documents.resolve())
    calibration = Calibration(
        uri=where[1],
        provenance=Provenance.UNSEEN,
        fit_sequences=budgets["fit"],
        select_sequences=budgets["select"],
        check_sequences=budgets["check"],
    )
    return open_inputs(AuditRequest(checkpoint=where[0], calibration=calibration), Settings(allow=list(where)))
