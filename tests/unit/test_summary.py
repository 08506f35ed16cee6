"""The summary repeats the report; the bound is the least loss, and check's number is that of select's pick."""

from typing import Any

import pytest

from peelbound.service.schemas.report import BlockFinding, BlockReport, Score, Sentence, Summary
from peelbound.service.summary import bound_of, picked_on_select, summarise
from peelbound.service.verdict import judge
from tests.verdict_fixture import INERT, NETWORKS, around, block, bound, control, evidence, network


def block_report(index: int, **changes: Any) -> BlockReport:
    fields: dict[str, Any] = {
        "index": index,
        "finding": BlockFinding.SOUND,
        "reason": Sentence(text="", cites=[]),
        "gain": around(-0.001),
        "candidates": [],
        "chosen_rho": 0.3,
        "skip_cost": around(0.2),
        "block_influence": 0.05,
        "gradient_agreement": 0.5,
        "attention_scale": None,
        "mlp_scale": None,
        "block_scale": Score(mean=0, z=0),
        "weight_norm": 1.0,
    }
    return BlockReport(**(fields | changes))


def summary(reports: list[BlockReport], **changes: Any) -> Summary:
    given = evidence(**changes)
    return summarise(
        verdict=judge(given).verdict,
        trained=given.trained,
        head_control=given.head_control,
        networks=given.networks,
        bound=given.bound,
        blocks=reports,
        positive_control=given.positive_control,
    )


def test_a_quick_audit_in_short() -> None:
    found = summary([block_report(1), block_report(2, finding=BlockFinding.INERT)], blocks=(block(), INERT))
    assert found.inert_blocks == [2]
    assert found.lagging_blocks == []
    assert (found.best_block, found.best_block_gain) == (None, None)
    assert (found.cloud.trained_fit, found.cloud.head_control_check) == (3.26, 3.119)
    assert (found.cloud.yes0_fit, found.cloud.bound_fit, found.damage_seen) == (None, None, None)


def test_a_standard_audit_in_short() -> None:
    reports = [
        block_report(1, gain=around(0.004), finding=BlockFinding.LAGGING),
        block_report(2, gain=around(0.009)),
        block_report(3),
    ]
    found = summary(reports, networks=NETWORKS, bound=bound(), positive_control=control(damage_seen=False))
    assert found.lagging_blocks == [1]
    assert found.best_block == 2
    assert found.best_block_gain == around(0.009)
    assert (found.cloud.yes0_fit, found.cloud.yes0_check) == (3.7, 3.9)
    assert (found.cloud.bound_fit, found.cloud.bound_check) == (3.512, 3.612)
    assert found.damage_seen is False


def test_the_best_block_is_one_whose_gain_is_shown_where_there_is_any() -> None:
    reports = [block_report(1, gain=around(0.006, 0.008)), block_report(2, gain=around(0.005))]
    assert summary(reports).best_block == 2
    assert summary(reports[:1]).best_block == 1


def test_the_bound_is_least_on_fit_and_checked_where_select_said() -> None:
    networks = [
        network("YES-0", [4], fit=3.4, select_loss=3.9, check_loss=4.0),
        network("direct", [1, 2, 3, 4], fit=3.5, select_loss=3.7, check_loss=3.8),
    ]
    assert picked_on_select(networks) == 1
    found = bound_of(networks, trained_fit=3.6, control_fit=3.45)
    assert found is not None
    assert (found.network, found.fit_loss) == ("YES-0", 3.4)
    assert (found.check_network, found.check_loss) == ("direct", 3.8)
    assert (found.below_trained_on_fit, found.below_control_on_fit) == (True, True)
    assert found.control_share == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("trained", "control", "share"), [(3.6, 3.3, 1.0), (3.6, 3.7, 0.0), (3.3, 3.2, None), (3.4, 3.2, None)]
)
def test_the_controls_share_stays_a_share(trained: float, control: float, share: float | None) -> None:
    found = bound_of([network("YES-0", [4], fit=3.4, check_loss=4.0)], trained_fit=trained, control_fit=control)
    assert found is not None
    assert found.control_share == share
    assert found.below_trained_on_fit == (share is not None)


def test_no_networks_no_bound_and_no_check_no_bound() -> None:
    assert bound_of([], 3.0, 3.0) is None
    with pytest.raises(ValueError, match="YES-0, picked on select"):
        bound_of([network("YES-0", [4])], 3.0, 3.0)
