"""Measurements of audits that never ran, as the controller would have made them."""

from dataclasses import replace
from typing import Any

import numpy as np

from peelbound.service.controller.assemble import Context, Control, Measured
from peelbound.service.controller.block_measurements import BlockMeasurements, Sums, Trained, choose, skip_name
from peelbound.service.controller.networks import HeadResult, Network, cell_name
from peelbound.service.evidence import Thresholds
from peelbound.service.plan import Anchors, make_plan, map_name, suggest
from peelbound.service.schemas.report import CalibrationReport, CheckpointReport, SpectrumReport, SplitReport
from peelbound.service.schemas.request import AuditRequest
from peelbound.workers.tasks import Damage

DOCUMENTS = {"fit": 20, "select": 12, "check": 40}
RHOS = (0.15, 0.5)


class Synthetic:
    """Draws loss sums per document around given losses in nats; equal seeds give equal ones."""

    def __init__(self, seed: int = 0, select_documents: int = DOCUMENTS["select"]) -> None:
        rng = np.random.default_rng(seed)
        documents = DOCUMENTS | {"select": select_documents}
        self.tokens = {name: rng.integers(60, 140, n).astype(np.float64) for name, n in documents.items()}
        self._text = {name: rng.normal(0, 0.5, n) for name, n in documents.items()}
        self._rng = rng

    def losses(self, split: str, mean: float, spread: float = 0.01) -> Sums:
        """Sums per document whose ratio to the tokens is `mean`; documents differ alike in all losses of a split."""
        tokens = self.tokens[split]
        own = self._text[split] + self._rng.normal(0, spread, len(tokens))
        losses: Sums = tokens * (mean + own - (own * tokens).sum() / tokens.sum())
        return losses

    def blocks(
        self,
        gains: dict[tuple[int, float], float],
        *,
        trained: float = 3.0,
        gains_on_check: dict[tuple[int, float], float] | None = None,
        extra: dict[str, float] | None = None,
        scores: float = 0.0,
    ) -> BlockMeasurements:
        """Measurements of blocks whose candidates gain so much; skipping block l costs 0.1·l nats.

        Args:
            gains: on select, by block and ρ.
            trained: loss of the trained network.
            gains_on_check: where they are others.
            extra: loss increase on select of further references by name.
            scores: mean of every scale product per token.
        """
        blocks = sorted({block for block, _ in gains})
        names = {(block, rho): f"block {block} rho {rho}" for block, rho in gains}
        select = {"trained": self.losses("select", trained, 0)}
        select |= {names[at]: self.losses("select", trained - gain) for at, gain in gains.items()}
        select |= {name: self.losses("select", trained + cost) for name, cost in (extra or {}).items()}
        choice = choose(select, self.tokens["select"], names)
        check = {"trained": self.losses("check", trained, 0)}
        for block, rho in choice.chosen.items():
            if rho:
                gain = (gains_on_check or gains)[block, rho]
                check[names[block, rho]] = self.losses("check", trained - gain)
        check |= {skip_name(block): self.losses("check", trained + 0.1 * block) for block in blocks}
        score_tokens = np.concatenate([self.tokens["fit"], self.tokens["check"]])
        products = {
            kind: [score_tokens * (scores + self._rng.normal(0, 0.01, len(score_tokens))) for _ in blocks]
            for kind in ("attention", "mlp", "block")
        }
        return BlockMeasurements(
            trained=Trained(
                {
                    "fit": self.losses("fit", trained, 0),
                    "select": select["trained"],
                    "check": check["trained"],
                },
                self.tokens,
                [0.04 + 0.01 * block for block in blocks],
                [0.03 + 0.01 * block for block in blocks],
                [10.0 * block for block in blocks],
                [SpectrumReport(departure=20.0 * block, matrix="up_proj", constant_norms=False) for block in blocks],
            ),
            scores={kind: list(rows) for kind, rows in products.items()},
            score_tokens=score_tokens,
            solutions={
                at: {
                    "predicted_gain": 100.0 * at[0] + at[1],
                    "gradient_agreement": 0.5,
                    "top_token_share": 0.02 * at[0],
                    "codes_moved": 0.01 * at[0] * at[1],
                }
                for at in gains
            },
            choice=choice,
            select=select,
            check=check,
        )

    def head(self, fit: float, select: float, *, unchanged: float = 3.4, step: int = 20, extra: int = 0) -> HeadResult:
        sums = {
            "fit": self.losses("fit", fit),
            "fit_unchanged": self.losses("fit", unchanged),
            "select": self.losses("select", select),
        }
        return HeadResult("key", step, extra, sums)

    def network(self, anchors: Anchors, fit: float, select: float) -> Network:
        return Network(map_name(anchors), anchors, [0.01] * anchors[-1], self.head(fit, select))


def audit_request(preset: str = "standard", **options: Any) -> AuditRequest:
    return AuditRequest.model_validate(
        {
            "checkpoint": "/models/small",
            "calibration": {"uri": "/data/text.jsonl", "provenance": "unseen"},
            "preset": preset,
            "options": options,
            "run": "night",
            "step": 7,
            "labels": {"who": "me"},
        }
    )


def context(preset: str = "standard", blocks: int = 3, **options: Any) -> Context:
    request = audit_request(preset, **options)
    return Context(
        request=request,
        plan=make_plan(request, blocks, hidden_size=32),
        calibration=CalibrationReport(
            provenance="unseen",
            splits={
                name: SplitReport(documents=n, sequences=n, tokens=100 * n, sha256=name * 8)
                for name, n in DOCUMENTS.items()
            },
            duplicates_dropped=1,
            sequence_length=128,
        ),
        checkpoint=CheckpointReport(
            sha256="0" * 64,
            model_type="llama",
            architecture="LlamaForCausalLM",
            blocks=blocks,
            parameters=100_000,
            bytes=400_000,
            stored_dtypes=["F32"],
            tied_embeddings=False,
        ),
        environment={"torch": "2"},
        thresholds=Thresholds(),
    )


def with_check_documents(made: Context, documents: int) -> Context:
    """The same where check has so many documents."""
    check = made.calibration.splits["check"].model_copy(update={"documents": documents})
    splits = {**made.calibration.splits, "check": check}
    return replace(made, calibration=made.calibration.model_copy(update={"splits": splits}))


def measured(made: Context, seed: int = 0) -> Measured:
    """A whole audit of a sound model: small gains, reference networks that lose, a head that gains in sample."""
    draw, plan = Synthetic(seed), made.plan
    cells = {cell: 0.02 * (cell[1] - cell[0]) ** 2 for cell in plan.matrix_cells}
    gains = {(b, rho): 0.004 - 0.01 * rho for b in range(1, plan.blocks + 1) for rho in RHOS}
    own = draw.blocks(gains, extra={cell_name(*cell): cost for cell, cost in cells.items()})
    maps = list(plan.maps)
    if plan.suggested_maps:
        maps.append(suggest(cells, plan.blocks, plan.band))
    maps = list(dict.fromkeys(maps))
    networks = [draw.network(m, fit=3.3 - 0.01 * len(m), select=3.5 - 0.01 * len(m)) for m in maps]
    check = {"control": draw.losses("check", 3.01)}
    if networks:
        picked = networks[[len(m) for m in maps].index(max(map(len, maps)))]
        check |= {n.name: draw.losses("check", 3.6) for n in networks if n is picked or len(n.anchors) == 1}
    control = None
    if plan.positive_control:
        block = (plan.blocks + 1) // 2
        copy = draw.blocks({(b, 0.5): 0.03 if b == block else 0.0005 for b in range(1, plan.blocks + 1)}, trained=3.05)
        control = Control(Damage(block, 0.33, 1), copy)
    return Measured(own, draw.head(2.9, 3.02, step=10), networks, check, dict.fromkeys(cells, 0.1), control)


def without_scores(given: Measured, *kinds: str) -> Measured:
    """The same for a family whose sub-layers could not be told apart."""
    scores: dict[str, list[Sums | None]] = {
        kind: [None] * len(rows) if kind in kinds else rows for kind, rows in given.blocks.scores.items()
    }
    return replace(given, blocks=replace(given.blocks, scores=scores), control=None)
