"""Synthetic reports that look like real ones, for the tests of whatever shows reports."""

import math
import random
from datetime import UTC, datetime
from typing import Any

from peelbound.service.schemas.record import AuditRecord, AuditState, RunPoint, RunSeries
from peelbound.service.schemas.report import (
    BaselineReport,
    BlockBits,
    BlockCandidate,
    BlockFinding,
    BlockReport,
    Bound,
    BoundBits,
    CalibrationReport,
    CheckpointReport,
    CheckpointVerdict,
    Citation,
    CloudSummary,
    ControlReport,
    DamagedBlock,
    HeadControlReport,
    Interval,
    LossReport,
    LowBitReport,
    MatrixCell,
    NetworkReport,
    Report,
    RoundedBlock,
    RoundedMix,
    Score,
    Sentence,
    SplitReport,
    Summary,
    Verdict,
    WeightsReport,
    WhatIfReport,
)
from peelbound.service.schemas.request import AuditRequest

REQUEST: dict[str, Any] = {
    "checkpoint": "s3://models/baseline/step-00800",
    "calibration": {
        "uri": "s3://corpora/stdlib-heldout.jsonl",
        "texts": None,
        "token_ids": None,
        "text_field": "text",
        "provenance": "unseen",
        "sequence_length": 128,
        "fit_sequences": 64,
        "select_sequences": 32,
        "check_sequences": 96,
        "split_seed": 0,
    },
    "preset": "standard",
    "options": {"rhos": None, "grain": 8, "tolerance": 0.01},
    "seed": 0,
}


def around(estimate: float, error: float, *, simultaneous: bool = False) -> Interval:
    """An interval of ±1.96 standard errors, or ±2.7 where it holds jointly."""
    half = error * (2.7 if simultaneous else 1.96)
    return Interval(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        standard_error=error,
        simultaneous=simultaneous,
    )


def block(index: int, blocks: int, finding: BlockFinding, side: str | None, rng: random.Random) -> BlockReport:
    """One block's evidence, as the finding makes it."""
    inert, lagging = finding is BlockFinding.INERT, finding is BlockFinding.LAGGING
    first = index == 1
    gain = 0.0001 if inert else 0.0094 if lagging else rng.gauss(0.0004, 0.0007) - (0.002 if first else 0)
    skip = 0.0003 if inert else 1.84 if first else rng.uniform(0.13, 0.2) * min(1.0, 8 / blocks)
    push = {"too_strong": 11.0, "too_weak": -24.0}.get(side or "", 0.0)
    reasons = {
        BlockFinding.SOUND: "Nothing sets it apart from the other blocks.",
        BlockFinding.INERT: "Leaving it out costs nothing, and it hardly turns its input.",
        BlockFinding.LAGGING: "Both scale scores are far out on the same side.",
    }
    return BlockReport(
        index=index,
        finding=finding,
        reason=Sentence(
            text=reasons[finding],
            cites=[
                Citation(path=f"/blocks/{index - 1}/skip_cost/estimate", value=skip),
                Citation(path=f"/blocks/{index - 1}/block_influence", value=0.0 if inert else 0.0563),
            ],
        ),
        side=side,
        gain=around(gain, 0.0006, simultaneous=True),
        excess_gain=around(gain - 0.0003, 0.0007, simultaneous=True) if blocks > 1 else None,
        smallest_visible_effect=0.0022,
        others_influence=0.0561 if blocks > 1 else None,
        scale_limit=6.0 if lagging else 6.9,
        candidates=[
            BlockCandidate(rho=0.0, select_gain=0.0, predicted_gain=0.0),
            BlockCandidate(rho=0.3, select_gain=gain + 0.0003, predicted_gain=0.0121),
            BlockCandidate(rho=1.0, select_gain=gain - 0.0041, predicted_gain=0.0263),
        ],
        chosen_rho=0.0 if gain < 0 else 0.3,
        skip_cost=around(skip, 0.0001 if inert else skip * 0.05),
        block_influence=0.00002 if inert else 0.31 if first else rng.uniform(0.045, 0.07) * min(1.0, 8 / blocks),
        gradient_agreement=rng.uniform(0.5, 0.6),
        attention_scale=Score(mean=0.001, z=0.0 if inert else push + rng.gauss(0, 1.8)),
        mlp_scale=Score(mean=0.001, z=0.0 if inert else push * 1.3 + rng.gauss(0, 1.8)),
        block_scale=Score(mean=0.001, z=0.0 if inert else push + rng.gauss(0, 1.8)),
        weight_norm=38.0 + rng.uniform(0, 6),
        residual=rng.uniform(0.004, 0.02),
    )


def network(
    name: str, anchors: list[int], blocks: int, fit: float, check: float | None, trained: float
) -> NetworkReport:
    """A reference network with plausible residuals."""
    target_map = [min(a for a in anchors if a >= k) for k in range(1, blocks + 1)]
    gain = None if check is None else around(trained - check, 0.009)
    return NetworkReport(
        name=name,
        anchors=anchors,
        target_map=target_map,
        fit_loss=fit,
        select_loss=fit + 0.09,
        fit_loss_unchanged_head=fit + 0.21,
        head_refitted=True,
        residuals=[0.004 * (1 + t - k) ** 1.5 for k, t in enumerate(target_map, start=1)],
        check_loss=check,
        gain=gain,
        gain_over_control=gain,
    )


def matrix(blocks: int, band: int) -> list[MatrixCell]:
    """A band of the peeling matrix: the wider, the dearer; block 1 is the dearest."""
    cells = []
    for source in range(blocks):
        for target in range(source + 1, min(source + band, blocks) + 1):
            width = target - source
            cost = (0.081 if source == 0 else 0.01) * width**1.9 + 0.0007 * source
            if (source, target) == (2, 3):
                cost = -0.0012
            cells.append(
                MatrixCell(
                    source=source, target=target, residual=0.01 * width, loss_increase=around(cost, 0.002 + 0.02 * cost)
                )
            )
    return cells


def control(*, seen: bool = True, named: bool = True, block: int = 4) -> ControlReport:
    """A positive control that was found, half found or missed."""
    return ControlReport(
        block=block,
        noise=0.84,
        planted_cost=0.0497,
        measured_cost=around(0.0512, 0.0031),
        damage_seen=seen,
        named_block=block if named else None,
        right_block_named=named,
        gain=around(0.0123 if seen else 0.0004, 0.0011),
        attention_scale=Score(mean=0.01, z=9.1 if seen else 1.7),
        mlp_scale=Score(mean=0.01, z=14.7 if seen else 1.7),
        detail="The damage shows in both scale scores of the block."
        if seen
        else "No measurement moved beyond its error.",
    )


def verdict_sentences(best: BlockReport, blocks: int, head_gain: float, documents: int, delta: float) -> list[Sentence]:
    """Sentences that print their numbers and cite them, with names and thresholds among the citations."""
    gain, path = best.gain, f"/blocks/{best.index - 1}"
    return [
        Sentence(
            text=f"The most that re-solving one of the {blocks} blocks gains on check is {gain.estimate:.4f} nats "
            f"(95% interval {gain.low:.4f} to {gain.high:.4f}, jointly over the blocks), in block {best.index}.",
            cites=[
                Citation(path="/checkpoint/blocks", value=blocks),
                Citation(path=f"{path}/gain/estimate", value=gain.estimate),
                Citation(path=f"{path}/gain/low", value=gain.low),
                Citation(path=f"{path}/gain/high", value=gain.high),
                Citation(path="/settings/thresholds/level", value=0.95),
                Citation(path=f"{path}/index", value=best.index),
            ],
        ),
        Sentence(
            text=f"Refitting only the norm and the head changes the loss on check by {head_gain:.4f} nats.",
            cites=[Citation(path="/head_control/gain/estimate", value=head_gain)],
        ),
        Sentence(
            text=f"A gain of {delta} nats in any one block would have been seen on {documents} documents four times in "
            "five; the tolerance is 0.01.",
            cites=[
                Citation(path="/verdict/smallest_visible_effect", value=delta),
                Citation(path="/calibration/splits/check/documents", value=documents),
                Citation(path="/request/options/tolerance", value=0.01),
            ],
        ),
    ]


def build_report(
    *,
    blocks: int = 6,
    inert: tuple[int, ...] = (),
    lagging: dict[int, str | None] | None = None,
    status: CheckpointVerdict = CheckpointVerdict.HOLDS,
    headline: str = "Holds: nothing gained on check, where 0.0041 nats would have been seen.",
    provenance: str = "unseen",
    check_documents: int = 96,
    quick: bool = False,
    band: int = 3,
    planted: ControlReport | None = None,
    request: dict[str, Any] | None = None,
    seed: int = 0,
) -> Report:
    """A report in which the given blocks are not sound."""
    rng = random.Random(seed)
    lagging = lagging or {}

    def finding(k: int) -> BlockFinding:
        return BlockFinding.INERT if k in inert else BlockFinding.LAGGING if k in lagging else BlockFinding.SOUND

    block_reports = [block(k, blocks, finding(k), lagging.get(k), rng) for k in range(1, blocks + 1)]
    best = max(block_reports, key=lambda b: b.gain.estimate)
    fit, check = 3.2604, 3.1163
    yes0 = network("YES-0", [blocks], blocks, 3.6127, 3.6911, check)
    direct = network("direct", list(range(1, blocks + 1)), blocks, 3.2982, None, check)
    networks = [] if quick else [yes0, *([direct] if blocks > 1 else [])]
    if blocks >= 4 and not quick:
        middle = blocks // 2
        networks.append(network(f"YES-1 {{{middle}}}", [middle, blocks], blocks, 3.2418, 3.2409, check))
    lowest = min(networks, key=lambda n: n.fit_loss) if networks else None
    picked = next((n for n in reversed(networks) if n.check_loss is not None), None)
    bound = None
    if lowest is not None and picked is not None and picked.check_loss is not None:
        bound = Bound(
            network=lowest.name,
            fit_loss=lowest.fit_loss,
            check_network=picked.name,
            check_loss=picked.check_loss,
            below_trained_on_fit=lowest.fit_loss < fit,
            below_control_on_fit=False,
            control_share=1.0,
        )
    head = HeadControlReport(
        fit_loss=3.1987,
        select_loss=3.2411,
        check_loss=3.1184,
        gain=around(-0.0021, 0.0012),
        head_refitted=True,
        extra_parameters=262_144,
    )
    documents_needed = 412 if status is CheckpointVerdict.INCONCLUSIVE else None
    delta = 0.0268 if status is CheckpointVerdict.INCONCLUSIVE else 0.0041
    sentences = verdict_sentences(best, blocks, head.gain.estimate, check_documents, delta)
    split_sizes = {"fit": (64, 61), "select": (32, 34), "check": (96, check_documents)}
    cloud = CloudSummary(
        trained_fit=fit,
        trained_check=check,
        head_control_fit=head.fit_loss,
        head_control_check=head.check_loss,
        yes0_fit=None if quick else yes0.fit_loss,
        yes0_check=None if quick else yes0.check_loss,
        bound_fit=bound.fit_loss if bound else None,
        bound_check=bound.check_loss if bound else None,
    )
    return Report(
        summary=Summary(
            status=status,
            headline=headline,
            cloud=cloud,
            inert_blocks=list(inert),
            lagging_blocks=sorted(lagging),
            best_block=best.index,
            best_block_gain=best.gain,
            smallest_visible_effect=delta,
            damage_seen=planted.damage_seen if planted else None,
        ),
        verdict=Verdict(
            status=status,
            headline=headline,
            sentences=sentences,
            smallest_visible_effect=delta,
            documents_needed=documents_needed,
        ),
        trained=LossReport(fit=fit, select=3.2377, check=around(check, 0.0399)),
        head_control=head,
        networks=networks,
        bound=bound,
        blocks=block_reports,
        matrix=[] if quick else matrix(blocks, band),
        positive_control=planted,
        calibration=CalibrationReport(
            provenance=provenance,
            splits={
                name: SplitReport(
                    documents=documents,
                    sequences=sequences,
                    tokens=sequences * 127,
                    sha256=f"{i}" * 8 + "c0ffee" * 9 + "ab",
                )
                for i, (name, (sequences, documents)) in enumerate(split_sizes.items(), start=1)
            },
            duplicates_dropped=3,
            sequence_length=128,
            top_token_share=0.083,
        ),
        checkpoint=CheckpointReport(
            sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            model_type="llama",
            architecture="LlamaForCausalLM",
            blocks=blocks,
            parameters=1_452_928,
            bytes=5_811_712,
            stored_dtypes=["float32"],
            tied_embeddings=True,
        ),
        settings={
            "block": {"steps": 15, "learning_rate": 0.001, "rhos": [0.3, 1.0], "optimiser": "adam"},
            "network": {"solver": "fast", "steps": 120, "learning_rate": 0.005},
            "head": {"steps": 200, "patience": 5},
            "grain": 8,
            "seed": 0,
            "thresholds": {"tolerance": 0.01, "skip": 0.005, "score_z": 6.0},
        },
        environment={
            "peelbound": "0.1.0",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "python": "3.11",
            "isa": "avx512",
        },
        request=request or {**REQUEST, "calibration": {**REQUEST["calibration"], "provenance": provenance}},
        caveats=[
            "A bound is an achievable loss, not the best one: a checkpoint above no bound may still be improvable.",
            "Nothing here is known about longer or rescheduled training.",
            "The gain shrinks whenever the learning rate anneals: compare steps at an equal point of it.",
        ],
    )


def sound_report(**changes: Any) -> Report:
    """Six sound blocks on unseen data, positive control found."""
    return build_report(**{"planted": control(), "band": 6, **changes})


def frozen_report(**changes: Any) -> Report:
    """Six blocks of which block 3 was left frozen."""
    headline = "Improvable: re-solving block 5 alone gains 0.0094 nats on check; block 3 is inert; block 5 lags."
    defaults: dict[str, Any] = {
        "inert": (3,),
        "lagging": {5: "too_strong"},
        "status": CheckpointVerdict.IMPROVABLE,
        "headline": headline,
        "planted": control(),
        "band": 6,
    }
    return build_report(**{**defaults, **changes})


def deep_report(blocks: int = 30, **changes: Any) -> Report:
    """Many blocks, on another distribution than training's, with a control that was missed."""
    defaults: dict[str, Any] = {
        "blocks": blocks,
        "inert": tuple(k for k in (13, 14) if k <= blocks),
        "lagging": {k: "too_weak" for k in (21,) if k <= blocks},
        "status": CheckpointVerdict.ADAPTABLE,
        "headline": "Adaptable to this data: re-solving block 21 alone gains 0.0094 nats on check; "
        "blocks 13 and 14 are inert.",
        "provenance": "other_distribution",
        "planted": control(seen=False, named=False, block=min(9, blocks)),
    }
    return build_report(**{**defaults, **changes})


def what_if(blocks: int = 6) -> WhatIfReport:
    """A model whose first block, and one more, must not be rounded."""
    costs = [0.19 if k == 1 else 0.031 if k == blocks else 0.004 + 0.0007 * k for k in range(1, blocks + 1)]
    order = sorted(range(1, blocks + 1), key=lambda k: -costs[k - 1])
    mixes = [
        RoundedMix(kept=sorted(order[:m]), cost=around(1.1 * sum(costs[k - 1] for k in order[m:]), 0.0009))
        for m in range(min(blocks, 5))
    ]
    return WhatIfReport(
        scheme="int4-g32",
        blocks=[
            RoundedBlock(
                index=k,
                first_order=0.1 * cost - 0.001,
                predicted_cost=0.8 * cost,
                select_cost=cost,
                cost=around(cost, 0.0007, simultaneous=True),
                recovered=around(0.4 * cost, 0.0007, simultaneous=True),
            )
            for k, cost in enumerate(costs, start=1)
        ],
        mixes=mixes,
        enough=2 if blocks > 2 else None,
        rank_agreement=0.943,
        sentences=[
            Sentence(
                text="Rounding the linear maps of all blocks to int4-g32 costs 0.264 nats on check.",
                cites=[Citation(path="/what_if/mixes/0/cost/estimate", value=mixes[0].cost.estimate)],
            ),
            Sentence(
                text="Rounded alone, block 1, the dearest on select, costs 0.190 nats on check; foretold were 0.152.",
                cites=[
                    Citation(path="/what_if/blocks/0/cost/estimate", value=0.19),
                    Citation(path="/what_if/blocks/0/predicted_cost", value=0.152),
                ],
            ),
        ],
    )


def low_bit(blocks: int = 6) -> LowBitReport:
    """A ternary model whose bits cost more than what training left undone."""
    return LowBitReport(
        bound=BoundBits(
            network="YES-0",
            free_network="direct",
            loss=3.09,
            free_loss=2.97,
            unfinished=around(0.026, 0.004),
            price=around(0.12, 0.006),
            total=around(0.146, 0.006),
        ),
        networks=[network("direct", list(range(1, blocks + 1)), blocks, 2.95, 2.97, 3.1163)],
        blocks=[
            BlockBits(
                index=k,
                free_gain=around(0.02 + 0.001 * k, 0.002, simultaneous=True),
                price=around(0.018 + 0.001 * k, 0.002, simultaneous=True),
            )
            for k in range(1, blocks + 1)
        ],
        sentences=[
            Sentence(
                text="The reference network in full precision, direct, gains 0.146 nats over the trained network.",
                cites=[Citation(path="/low_bit/bound/total/estimate", value=0.146)],
            )
        ],
    )


def baseline(blocks: int = 6) -> BaselineReport:
    """The checkpoint before quantisation, whose first block was damaged."""
    return BaselineReport(
        sha256="5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9",
        loss=3.0521,
        damage=around(0.0642, 0.0031),
        blocks=[
            DamagedBlock(index=k, damage=around(0.041 if k == 1 else 0.003 * k, 0.001, simultaneous=True))
            for k in range(1, blocks + 1)
        ],
        sentences=[
            Sentence(
                text="The baseline's loss on check is 3.052 nats; quantisation cost 0.0642 nats.",
                cites=[
                    Citation(path="/baseline/loss", value=3.0521),
                    Citation(path="/baseline/blocks/0/damage/estimate", value=0.041),
                ],
            )
        ],
    )


def rounded_report(blocks: int = 6, **changes: Any) -> Report:
    """A sound report of a model that was asked what rounding would cost."""
    return sound_report(blocks=blocks, **changes).model_copy(update={"what_if": what_if(blocks)})


def low_bit_report(blocks: int = 6, **changes: Any) -> Report:
    """A sound report of a ternary model."""
    report = sound_report(blocks=blocks, **changes)
    weights = WeightsReport(
        scheme="ternary",
        latent=False,
        certainty="seen",
        why="Every one of 7 linear maps of block 1: at most 3 distinct values per tensor.",
        share=0.61,
    )
    checkpoint = report.checkpoint.model_copy(update={"weights": weights})
    return report.model_copy(
        update={"low_bit": low_bit(blocks), "checkpoint": checkpoint, "baseline": baseline(blocks)}
    )


def estimate_report(**changes: Any) -> Report:
    """Too few documents, quick preset: no bounds, no matrix, no control, and numbers that could not be computed."""
    defaults: dict[str, Any] = {
        "status": CheckpointVerdict.ESTIMATE_ONLY,
        "headline": "Estimates only: 12 check documents are too few to test anything.",
        "provenance": "unknown",
        "check_documents": 12,
        "quick": True,
    }
    report = build_report(**{**defaults, **changes})
    unknown = Interval(estimate=0.0012, low=math.nan, high=math.nan, standard_error=math.inf)
    first = report.blocks[0].model_copy(
        update={
            "attention_scale": None,
            "mlp_scale": None,
            "residual": None,
            "gain": unknown,
            "block_influence": math.nan,
        }
    )
    return report.model_copy(update={"blocks": [first, *report.blocks[1:]]})


def build_series(steps: int = 8, *, bounded: bool = True, frozen: bool = False, run: str = "baseline") -> RunSeries:
    """A run whose loss falls through the bands; the last audit is still running."""
    points = []
    for i in range(1, steps + 1):
        report = frozen_report() if frozen and i > steps // 2 else sound_report()
        trained = 3.1 + 3.4 * math.exp(-3.2 * i / steps)
        cloud = CloudSummary(
            trained_fit=trained,
            trained_check=trained + 0.06,
            head_control_fit=trained - 0.09,
            head_control_check=trained + 0.058,
            yes0_fit=3.75 + 1.2 * math.exp(-3.0 * i / steps) if bounded else None,
            yes0_check=3.85 + 1.2 * math.exp(-3.0 * i / steps) if bounded else None,
            bound_fit=3.22 + 1.0 * math.exp(-3.0 * i / steps) if bounded else None,
            bound_check=3.38 + 1.0 * math.exp(-3.0 * i / steps) if bounded else None,
        )
        status = CheckpointVerdict.IMPROVABLE if i < steps * 0.6 else CheckpointVerdict.HOLDS
        points.append(
            RunPoint(
                audit_id=f"01KACM2V7M3J0Q4S8R0V5N{i:04d}",
                step=100 * i,
                training_loss=trained + 0.03 * math.sin(5 * i),
                state=AuditState.SUCCEEDED,
                summary=report.summary.model_copy(update={"cloud": cloud, "status": status}),
            )
        )
    running = RunPoint(
        audit_id=f"01KACM2V7M3J0Q4S8R0V5N{steps + 1:04d}",
        step=100 * (steps + 1),
        training_loss=3.11,
        state=AuditState.RUNNING,
        summary=None,
    )
    return RunSeries(run=run, points=[*points, running])


def build_record(*, audit_id: str = "01KACM2V7M3J0Q4S8R0V5N0008", run: str = "baseline", **request: Any) -> AuditRecord:
    """The record of a finished audit."""
    body = AuditRequest.model_validate({**REQUEST, "run": run, "step": 800, "training_loss": 3.2011, **request})
    at = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)
    return AuditRecord(id=audit_id, state=AuditState.SUCCEEDED, attempt=1, request=body, created_at=at)
