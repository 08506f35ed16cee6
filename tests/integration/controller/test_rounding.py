"""An audit that asks what rounding would cost: what it reports."""

from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.report import Report
from tests.integration.controller.conftest import WHAT_IF, Running


def test_it_says_block_by_block_what_rounding_costs(rounded: bytes) -> None:
    report = Report.model_validate_json(rounded)
    what_if = report.what_if
    assert what_if is not None
    assert what_if.scheme == WHAT_IF["what_if"]
    assert [block.index for block in what_if.blocks] == [1, 2, 3]
    assert [len(mix.kept) for mix in what_if.mixes] == [0, 1, 2]
    assert all(block.cost.simultaneous for block in what_if.blocks)
    dearest = max(what_if.blocks, key=lambda block: block.select_cost)
    assert what_if.mixes[1].kept == [dearest.index]
    assert report.low_bit is None
    assert "what_if" in report.settings["plan"]


def test_two_blocks_kept_is_the_third_block_rounded(rounded: bytes) -> None:
    """The mix that keeps all but one is the network in which that one is rounded alone: two ways to one number."""
    what_if = Report.model_validate_json(rounded).what_if
    assert what_if is not None
    (left,) = {1, 2, 3} - set(what_if.mixes[-1].kept)
    assert what_if.mixes[-1].cost.estimate == what_if.blocks[left - 1].cost.estimate


def test_the_blocks_are_walked_as_often_as_without_the_question(running: Running, rounding_audit: str) -> None:
    assert running.service.wait(rounding_audit, "rounded").state is AuditState.SUCCEEDED
    assert running.service.timings(rounding_audit, "rounded")["walks"] == 4
