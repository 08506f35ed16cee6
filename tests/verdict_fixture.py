"""Evidence to judge, and the report that it would stand in."""

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from peelbound.service.evidence import BlockEvidence, Evidence, Judgement, Thresholds
from peelbound.service.more_text import Sequences
from peelbound.service.schemas.report import (
    Bound,
    ControlReport,
    HeadControlReport,
    Interval,
    LossReport,
    MatrixCell,
    NetworkReport,
    Score,
    Sentence,
)
from peelbound.service.schemas.request import Provenance
from peelbound.service.words import nats_text, percent_text, share_text, tenths_text, z_text

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def around(estimate: float, half_width: float = 0.001, *, joint: bool = True) -> Interval:
    low, high = estimate - half_width, estimate + half_width
    return Interval(
        estimate=estimate, low=low, high=high, standard_error=half_width / 2.5, simultaneous=joint and half_width > 0
    )


def block(**changes: Any) -> BlockEvidence:
    """A block of a sound, annealed model."""
    sound = BlockEvidence(
        gain=around(-0.0012),
        excess_gain=around(0.0003),
        smallest_visible_effect=0.0035,
        chosen_rho=0.3,
        skip_cost=around(0.18, 0.02),
        block_influence=0.052,
        attention_scale=Score(mean=-0.0011, z=-2.3),
        mlp_scale=Score(mean=0.0009, z=1.4),
    )
    return replace(sound, **changes)


def scored(attention: float, mlp: float) -> BlockEvidence:
    return block(attention_scale=Score(mean=attention / 300, z=attention), mlp_scale=Score(mean=mlp / 300, z=mlp))


INERT = block(skip_cost=around(0.0003, 0.0004), block_influence=0.0004)


def network(name: str, anchors: Sequence[int], fit: float = 3.7, **changes: Any) -> NetworkReport:
    fields: dict[str, Any] = {
        "name": name,
        "anchors": list(anchors),
        "target_map": [min(a for a in anchors if a >= k) for k in range(1, max(anchors) + 1)],
        "fit_loss": fit,
        "select_loss": fit + 0.1,
        "fit_loss_unchanged_head": fit + 0.05,
        "head_refitted": True,
        "residuals": [0.1] * max(anchors),
    }
    return NetworkReport(**(fields | changes))


def control(**changes: Any) -> ControlReport:
    fields: dict[str, Any] = {
        "block": 4,
        "noise": 0.81,
        "planted_cost": 0.0507,
        "measured_cost": around(0.047, 0.01, joint=False),
        "damage_seen": True,
        "named_block": 4,
        "right_block_named": True,
        "gain": around(0.004, joint=False),
        "attention_scale": Score(mean=0.009, z=9.1),
        "mlp_scale": Score(mean=0.014, z=14.7),
        "detail": "",
    }
    return ControlReport(**(fields | changes))


def bound(**changes: Any) -> Bound:
    fields: dict[str, Any] = {
        "network": "YES-1 {3,6}",
        "fit_loss": 3.512,
        "check_network": "direct",
        "check_loss": 3.612,
        "below_trained_on_fit": False,
        "below_control_on_fit": False,
    }
    return Bound(**(fields | changes))


NETWORKS = (
    network("YES-0", [6], check_loss=3.9, gain=around(-0.6, 0.02)),
    network("direct", range(1, 7), gain=around(-0.31, 0.02), gain_over_control=around(-0.33, 0.02)),
    network("YES-1 {3,6}", [3, 6]),
)


def cell(source: int, target: int, cost: float, half_width: float = 0.002, **changes: Any) -> MatrixCell:
    """A cell of the peeling matrix."""
    return MatrixCell(source=source, target=target, residual=0.01, loss_increase=around(cost, half_width), **changes)


def evidence(**changes: Any) -> Evidence:
    """A quick audit of a sound, annealed model of six blocks on unseen text."""
    sound = Evidence(
        trained=LossReport(fit=3.26, select=3.2, check=around(3.116, 0.05, joint=False)),
        head_control=HeadControlReport(
            fit_loss=3.251,
            select_loss=3.21,
            check_loss=3.119,
            gain=around(-0.003, joint=False),
            head_refitted=True,
            extra_parameters=262_144,
        ),
        networks=(),
        bound=None,
        blocks=(block(),) * 6,
        positive_control=None,
        matrix=(),
        provenance=Provenance.UNSEEN,
        check_documents=192,
        select_documents=32,
        sequences=Sequences(fit=64, select=32, check=96, length=128, checked=96),
        tolerance=0.01,
    )
    return replace(sound, **changes)


def as_report(evidence: Evidence, judgement: Judgement, thresholds: Thresholds) -> dict[str, Any]:
    """The parts of `report.json` that a verdict may cite."""
    blocks = []
    for index, (numbers, said) in enumerate(zip(evidence.blocks, judgement.blocks, strict=True), start=1):
        parts = {name: getattr(value, "model_dump", lambda v=value: v)() for name, value in vars(numbers).items()}
        said_of = {
            "finding": said.finding.value,
            "others_influence": said.others_influence,
            "scale_limit": said.scale_limit,
            "half_limit": said.half_limit,
            "excess_limit": said.excess_limit,
            "influence_limit": said.influence_limit,
            "others_departure": said.others_departure,
        }
        blocks.append({"index": index, **parts, **said_of})
    return {
        "verdict": judgement.verdict.model_dump(mode="json"),
        "trained": evidence.trained.model_dump(),
        "head_control": evidence.head_control.model_dump(),
        "networks": [network.model_dump() for network in evidence.networks],
        "bound": evidence.bound.model_dump() if evidence.bound else None,
        "blocks": blocks,
        "positive_control": evidence.positive_control.model_dump() if evidence.positive_control else None,
        "matrix": [cell.model_dump() for cell in evidence.matrix],
        "calibration": {
            "provenance": evidence.provenance.value,
            "splits": {
                "check": {"documents": evidence.check_documents},
                "select": {"documents": evidence.select_documents},
            },
        },
        "checkpoint": {"blocks": len(evidence.blocks)},
        "settings": {"thresholds": asdict(thresholds)},
        "request": {"options": {"tolerance": evidence.tolerance}},
    }


def resolve(report: Any, path: str) -> Any:
    """What a citation's path points to."""
    value = report
    for part in path.removeprefix("/").split("/"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def uncited_numbers(text: str, sentences: Sequence[Sentence]) -> list[str]:
    """Numbers in a text that no citation of the sentences accounts for."""
    values = [cite.value for sentence in sentences for cite in sentence.cites]
    forms = set()
    for value in values:
        if isinstance(value, str):
            text = text.replace(value, "")
        elif value is not None:
            forms |= {write(value) for write in (str, nats_text, share_text, z_text, tenths_text, percent_text)}
    return [number for number in NUMBER.findall(text) if number not in forms]
