"""The report in short, and the YES bound that stands in it."""

from collections.abc import Sequence

from peelbound.service.schemas.report import (
    BlockFinding,
    BlockReport,
    Bound,
    CloudSummary,
    ControlReport,
    HeadControlReport,
    LossReport,
    NetworkReport,
    Summary,
    Verdict,
)


def summarise(
    *,
    verdict: Verdict,
    trained: LossReport,
    head_control: HeadControlReport,
    networks: Sequence[NetworkReport],
    bound: Bound | None,
    blocks: Sequence[BlockReport],
    positive_control: ControlReport | None,
) -> Summary:
    """What the audit's record and the run's YES cloud keep of a report."""
    yes0 = next((network for network in networks if len(network.anchors) == 1), None)
    # As the verdict ranks them: a gain that is shown comes before a larger one that may be none.
    best = max(blocks, key=lambda block: (block.gain.low > 0, block.gain.estimate))
    gains = best.gain.estimate > 0
    return Summary(
        status=verdict.status,
        headline=verdict.headline,
        cloud=CloudSummary(
            trained_fit=trained.fit,
            trained_check=trained.check.estimate,
            head_control_fit=head_control.fit_loss,
            head_control_check=head_control.check_loss,
            yes0_fit=yes0.fit_loss if yes0 else None,
            yes0_check=yes0.check_loss if yes0 else None,
            bound_fit=bound.fit_loss if bound else None,
            bound_check=bound.check_loss if bound else None,
        ),
        inert_blocks=[block.index for block in blocks if block.finding is BlockFinding.INERT],
        lagging_blocks=[block.index for block in blocks if block.finding is BlockFinding.LAGGING],
        untrained_blocks=[block.index for block in blocks if block.finding is BlockFinding.UNTRAINED],
        best_block=best.index if gains else None,
        best_block_gain=best.gain if gains else None,
        smallest_visible_effect=verdict.smallest_visible_effect,
        damage_seen=positive_control.damage_seen if positive_control else None,
    )


def picked_on_select(networks: Sequence[NetworkReport]) -> int:
    """Position of the reference network with the least loss on select: the one that meets check."""
    return min(range(len(networks)), key=lambda position: networks[position].select_loss)


def bound_of(networks: Sequence[NetworkReport], trained_fit: float, control_fit: float) -> Bound | None:
    """The YES bound of the reference networks; None where there are none.

    Raises ValueError if the network picked on select was not measured on check.
    """
    if not networks:
        return None
    least = min(networks, key=lambda network: network.fit_loss)
    picked = networks[picked_on_select(networks)]
    if picked.check_loss is None:
        raise ValueError(f"{picked.name}, picked on select, has no loss on check")
    gap = trained_fit - least.fit_loss
    return Bound(
        network=least.name,
        fit_loss=least.fit_loss,
        check_network=picked.name,
        check_loss=picked.check_loss,
        below_trained_on_fit=gap > 0,
        below_control_on_fit=least.fit_loss < control_fit,
        control_share=min(max((trained_fit - control_fit) / gap, 0.0), 1.0) if gap > 0 else None,
    )
