"""A row's numbers as the product's own evidence, so that the verdict under test is the product's."""

from collections.abc import Mapping, Sequence
from typing import Any

from peelbound.service.evidence import BlockEvidence
from peelbound.service.schemas.report import Interval, Score, SpectrumReport

NOTHING = Interval(estimate=0.0, low=0.0, high=0.0, standard_error=0.0)
"""Gains that were not measured, since each takes a solve: as steps that were not taken, which accuse nobody."""
UNKNOWN = Interval(estimate=1.0, low=1.0, high=1.0, standard_error=0.0)
"""A skip cost that was not measured, in a deep model where the block's influence is ordinary: no rule reads it."""


def evidence_of(blocks: Sequence[Mapping[str, Any]]) -> tuple[BlockEvidence, ...]:
    """Of every block of a row."""
    return tuple(_evidence(block) for block in blocks)


def _evidence(block: Mapping[str, Any]) -> BlockEvidence:
    skip, gain, excess = block["skip"], block.get("gain"), block.get("excess_gain")
    return BlockEvidence(
        gain=Interval(**gain) if gain else NOTHING,
        excess_gain=Interval(**excess) if excess else None,
        smallest_visible_effect=0.0,
        chosen_rho=block.get("rho", 0.0),
        skip_cost=Interval(**skip) if skip else UNKNOWN,
        block_influence=block["influence"],
        attention_scale=Score(**block["scores"]["attention"]),
        mlp_scale=Score(**block["scores"]["mlp"]),
        spectrum=SpectrumReport(**block["spectrum"]),
    )
