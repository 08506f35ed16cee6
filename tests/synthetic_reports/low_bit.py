"""Reports on models of few bits, and on models that were asked what few bits would cost."""

from typing import Any

from peelbound.service.schemas.report import (
    BaselineReport,
    BlockBits,
    BoundBits,
    Citation,
    DamagedBlock,
    LowBitReport,
    Report,
    RoundedBlock,
    RoundedMix,
    Sentence,
    WeightsReport,
    WhatIfReport,
)
from tests.synthetic_reports.parts import around, network
from tests.synthetic_reports.whole import sound_report


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
