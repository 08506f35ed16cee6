"""Whole reports that look like real ones, for the tests of whatever shows reports."""

import math
import random
from typing import Any

from peelbound.service.schemas.report import (
    BlockFinding,
    Bound,
    CheckpointVerdict,
    CloudSummary,
    ControlReport,
    HeadControlReport,
    Interval,
    LossReport,
    Report,
    Summary,
    Verdict,
)
from tests.synthetic_reports.parts import (
    around,
    block,
    calibration,
    checkpoint,
    control,
    matrix,
    network,
    verdict_sentences,
)

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
SETTINGS: dict[str, Any] = {
    "block": {"steps": 15, "learning_rate": 0.001, "rhos": [0.3, 1.0], "optimiser": "adam"},
    "network": {"solver": "fast", "steps": 120, "learning_rate": 0.005},
    "head": {"steps": 200, "patience": 5},
    "grain": 8,
    "seed": 0,
    "thresholds": {"tolerance": 0.01, "skip": 0.005, "score_z": 6.0},
}
ENVIRONMENT = {
    "peelbound": "0.1.0",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "python": "3.11",
    "isa": "avx512",
}
CAVEATS = [
    "A bound is an achievable loss, not the best one: a checkpoint above no bound may still be improvable.",
    "Nothing here is known about longer or rescheduled training.",
    "The gain shrinks whenever the learning rate anneals: compare steps at an equal point of it.",
]


def build_report(
    *,
    blocks: int = 6,
    inert: tuple[int, ...] = (),
    untrained: tuple[int, ...] = (),
    lagging: dict[int, str | None] | None = None,
    status: CheckpointVerdict = CheckpointVerdict.HOLDS,
    headline: str = "Holds: nothing gained on check, where 0.0041 nats in any one block would have been seen.",
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
        if k in inert:
            return BlockFinding.INERT
        if k in untrained:
            return BlockFinding.UNTRAINED
        return BlockFinding.LAGGING if k in lagging else BlockFinding.SOUND

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
            untrained_blocks=list(untrained),
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
            check_sequences_needed=None if documents_needed is None else 210,
            documents_in_all=None if documents_needed is None else 601,
        ),
        trained=LossReport(fit=fit, select=3.2377, check=around(check, 0.0399)),
        head_control=head,
        networks=networks,
        bound=bound,
        blocks=block_reports,
        matrix=[] if quick else matrix(blocks, band),
        positive_control=planted,
        calibration=calibration(provenance, check_documents),
        checkpoint=checkpoint(blocks),
        settings=SETTINGS,
        environment=ENVIRONMENT,
        request=request or {**REQUEST, "calibration": {**REQUEST["calibration"], "provenance": provenance}},
        caveats=CAVEATS,
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
        "untrained": tuple(k for k in (26,) if k <= blocks),
        "lagging": {k: "too_weak" for k in (21,) if k <= blocks},
        "status": CheckpointVerdict.ADAPTABLE,
        "headline": "Adaptable to this data: re-solving block 21 alone gains 0.0094 nats on check; "
        "blocks 13 and 14 are inert; block 26 looks untrained.",
        "provenance": "other_distribution",
        "planted": control(seen=False, named=False, block=min(9, blocks)),
    }
    return build_report(**{**defaults, **changes})


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
