"""What the four walks measured, block by block, and the comparisons drawn from it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peelbound.service.schemas.report import BlockCandidate, Score, SpectrumReport
from peelbound.service.statistics import PairedSums, score

Sums = NDArray[np.float64]
"""Sums over the tokens of each document, [documents]."""

ZERO_STEP = 0.0
"""The ρ of the trained block itself: always a candidate."""

FIT, SELECT, CHECK = "fit", "select", "check"


@dataclass(frozen=True)
class Trained:
    """The network as it was trained."""

    loss_sums: dict[str, Sums]
    """By split."""
    tokens: dict[str, Sums]
    """Tokens with a loss, by split."""
    influence: list[float]
    """On check, per block."""
    select_influence: list[float]
    """The same on select, for choices."""
    weight_norms: list[float]
    spectra: list[SpectrumReport]
    """What the weights alone show of training, per block."""

    def loss(self, split: str) -> float:
        """Cross-entropy per token."""
        return float(self.loss_sums[split].sum() / self.tokens[split].sum())


@dataclass(frozen=True)
class Choice:
    """The step of each block reference, chosen on select."""

    names: Mapping[tuple[int, float], str]
    """Of the candidates among the references, by block and ρ."""
    gains: Mapping[tuple[int, float], float]
    """On select, in nats."""
    best: Mapping[int, float]
    """The best ρ of each block that is not the zero step."""
    chosen: Mapping[int, float]
    """The best ρ of all."""


def choose(select: Mapping[str, Sums], tokens: Sums, names: Mapping[tuple[int, float], str]) -> Choice:
    """Choose each block's step by its gain on select; of equals the shorter."""
    total = tokens.sum()
    gains = {at: float((select["trained"] - select[name]).sum() / total) for at, name in names.items()}
    best: dict[int, float] = {}
    for block, rho in sorted(names):
        if block not in best or gains[block, rho] > gains[block, best[block]]:
            best[block] = rho
    chosen = {block: rho if gains[block, rho] > 0 else ZERO_STEP for block, rho in best.items()}
    return Choice(names, gains, best, chosen)


def skip_name(block: int) -> str:
    """Name of the reference without this block."""
    return f"without block {block}"


def free_name(block: int) -> str:
    """Name of the reference with this block solved in full precision, beside a low-bit network."""
    return f"block {block} in full precision"


@dataclass(frozen=True)
class BlockMeasurements:
    """Loss sums of the trained network and its references, and what the solves told."""

    trained: Trained
    scores: dict[str, list[Sums | None]]
    """⟨gradient, output⟩ over fit and check, by sub-layer and block."""
    score_tokens: Sums
    """Tokens of the same documents."""
    solutions: dict[tuple[int, float], dict[str, Any]]
    choice: Choice
    select: dict[str, Sums]
    check: dict[str, Sums]

    @property
    def blocks(self) -> range:
        """1..K."""
        return range(1, len(self.trained.influence) + 1)

    def gains(self) -> PairedSums:
        """CE(trained) − CE(block reference) on check; zero throughout where the zero step was chosen."""
        rows = [
            self.check["trained"] - self.check["trained" if rho == ZERO_STEP else self.choice.names[block, rho]]
            for block, rho in self.choice.chosen.items()
        ]
        return PairedSums(np.stack(rows, axis=1), self.trained.tokens[CHECK])

    def select_gains(self) -> PairedSums:
        """The same on select, of the best step that is not zero: what its uncertainty is like."""
        rows = [self.select["trained"] - self.select[self.choice.names[at]] for at in self.choice.best.items()]
        return PairedSums(np.stack(rows, axis=1), self.trained.tokens[SELECT])

    def free_gains(self) -> PairedSums | None:
        """CE(trained) − CE(block solved in full precision) on check; zero where select preferred the trained block.

        None where the network is in full precision itself.
        """
        if free_name(1) not in self.check:
            return None
        rows = [self.check["trained"] - self.check[self._freed(block)] for block in self.blocks]
        return PairedSums(np.stack(rows, axis=1), self.trained.tokens[CHECK])

    def bit_prices(self) -> PairedSums | None:
        """CE(block reference of the weight class) − CE(the same in full precision) on check."""
        free = self.free_gains()
        own = self.gains()
        return None if free is None else PairedSums(free.difference_sums - own.difference_sums, own.tokens)

    def _freed(self, block: int) -> str:
        name = free_name(block)
        return name if self.select[name].sum() < self.select["trained"].sum() else "trained"

    def skip_costs(self) -> PairedSums:
        """CE(without the block) − CE(trained) on check."""
        rows = [self.check[skip_name(block)] - self.check["trained"] for block in self.blocks]
        return PairedSums(np.stack(rows, axis=1), self.trained.tokens[CHECK])

    def candidates(self, block: int) -> list[BlockCandidate]:
        """The block's candidates, the zero step first."""
        tokens = float(self.trained.tokens[FIT].sum())
        steps = [
            BlockCandidate(
                rho=rho,
                select_gain=self.choice.gains[block, rho],
                predicted_gain=self.solutions[block, rho]["predicted_gain"] / tokens,
            )
            for at, rho in sorted(self.choice.names)
            if at == block
        ]
        return [BlockCandidate(rho=ZERO_STEP, select_gain=0.0, predicted_gain=0.0), *steps]

    def scale(self, kind: str, block: int) -> Score | None:
        """Scale score of a sub-layer (`attention`, `mlp`, `block`); None where the family's was not recognised."""
        sums = self.scores[kind][block - 1]
        return None if sums is None else score(sums, self.score_tokens)

    def agreement(self, block: int) -> float:
        """Cosine similarity of the block's gradients on two halves of fit; the same for every ρ."""
        return next(float(v["gradient_agreement"]) for (at, _), v in sorted(self.solutions.items()) if at == block)

    def codes_moved(self) -> list[float]:
        """Largest share, over candidate steps, of each block's codes that solving it in its class moved.

        Empty where the class has no codes that are held: of latent weights, and in full precision.
        """
        found = dict.fromkeys(self.blocks, 0.0)
        for (block, _), values in self.solutions.items():
            if values["codes_moved"] is None:
                return []
            found[block] = max(found[block], float(values["codes_moved"]))
        return list(found.values())

    def top_token_share(self) -> float:
        """Largest share, over blocks, of Σ‖g‖ on fit that the top 1% of tokens own."""
        return max(float(v["top_token_share"]) for v in self.solutions.values())

    def select_increase(self, name: str) -> PairedSums:
        """CE(reference) − CE(trained) on select, of any reference that was carried along."""
        rows = (self.select[name] - self.select["trained"])[:, None]
        return PairedSums(rows, self.trained.tokens[SELECT])
