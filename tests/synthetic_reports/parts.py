"""The parts of a report, with numbers as a small trained model has them."""

import random

from peelbound.service.redundancy import is_redundant
from peelbound.service.schemas.report import (
    BlockCandidate,
    BlockFinding,
    BlockReport,
    CalibrationReport,
    CheckpointReport,
    Citation,
    ControlReport,
    Interval,
    MatrixCell,
    NetworkReport,
    Score,
    Sentence,
    SpectrumReport,
    SplitReport,
)


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
    untrained = finding is BlockFinding.UNTRAINED
    first = index == 1
    gain = 0.0001 if inert else 0.0094 if lagging else rng.gauss(0.0004, 0.0007) - (0.002 if first else 0)
    skip = 0.0003 if inert else 1.84 if first else rng.uniform(0.13, 0.2) * min(1.0, 8 / blocks)
    push = {"too_strong": 11.0, "too_weak": -24.0}.get(side or "", 0.0)
    reasons = {
        BlockFinding.SOUND: "Nothing sets it apart from the other blocks.",
        BlockFinding.INERT: "Leaving it out costs nothing, and it hardly turns its input.",
        BlockFinding.UNTRAINED: "Its weights look as an initialisation leaves them.",
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
        influence_limit=0.0070 if blocks > 5 else None,
        scale_limit=6.0 if lagging else 6.9,
        half_limit=12.7,
        excess_limit=0.0053 if blocks > 1 else None,
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
        spectrum=SpectrumReport(
            departure=2.1 if untrained else 41.3, matrix="mlp.up_proj.weight", constant_norms=untrained
        ),
        others_departure=41.3 if blocks > 1 else None,
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
    """A band of the peeling matrix: the wider, the dearer; block 1 is the dearest; blocks 4 and 5 are redundant."""
    cells = []
    for source in range(blocks):
        for target in range(source + 1, min(source + band, blocks) + 1):
            width = target - source
            cost = (0.081 if source == 0 else 0.01) * width**1.9 + 0.0007 * source
            if (source, target) == (2, 3):
                cost = -0.0012
            if (source, target) == (3, 5):
                cost = 0.0031
            increase = around(cost, 0.002 + 0.02 * cost)
            redundant = is_redundant(increase, 0.01) if width > 1 else None
            cells.append(
                MatrixCell(
                    source=source,
                    target=target,
                    residual=0.01 * width,
                    loss_increase=increase,
                    redundant=redundant,
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


def calibration(provenance: str, check_documents: int) -> CalibrationReport:
    """A calibration set whose check split has so many documents."""
    split_sizes = {"fit": (64, 61), "select": (32, 34), "check": (96, check_documents)}
    return CalibrationReport(
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
    )


def checkpoint(blocks: int) -> CheckpointReport:
    """A small llama of so many blocks."""
    return CheckpointReport(
        sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        model_type="llama",
        architecture="LlamaForCausalLM",
        blocks=blocks,
        parameters=1_452_928,
        bytes=5_811_712,
        stored_dtypes=["float32"],
        tied_embeddings=True,
    )
