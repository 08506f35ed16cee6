from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.demo import Audited, Checkpoint, conclusion, table
from peelbound.service.schemas.record import AuditRecord, AuditState
from peelbound.service.schemas.report import CheckpointVerdict, CloudSummary, Summary
from peelbound.service.schemas.request import AuditRequest, Calibration


def audited(run: str, loss: float, bound: float | None = 4.5, **named: list[int]) -> Audited:
    """An audit that names these blocks: `inert`, `untrained`, `lagging`."""
    summary = Summary(
        status=CheckpointVerdict.HOLDS,
        headline="",
        cloud=CloudSummary(
            trained_fit=4.1, trained_check=4.2, head_control_fit=4.0, head_control_check=4.3, bound_check=bound
        ),
        inert_blocks=named.get("inert", []),
        untrained_blocks=named.get("untrained", []),
        lagging_blocks=named.get("lagging", []),
        best_block=None,
        best_block_gain=None,
        smallest_visible_effect=None,
    )
    record = AuditRecord(
        id="01",
        state=AuditState.SUCCEEDED,
        attempt=1,
        request=AuditRequest(checkpoint="/c", calibration=Calibration(texts=["x"])),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        summary=summary,
    )
    return Audited(Checkpoint(run, 300, loss, Path("/c")), record, summary, Path(f"/{run}.html"))


@pytest.mark.parametrize(
    ("accused", "named", "words"),
    [
        ([], {"inert": [3]}, "the audit names block 3, which was frozen by mistake, and accuses no block of"),
        ([], {"untrained": [3]}, "the audit names block 3, which was frozen by mistake, and accuses no block of"),
        ([], {}, "the audit misses block 3, which was frozen by mistake, and accuses no block of"),
        ([5], {"inert": [3]}, "the audit names block 3, which was frozen by mistake, and accuses block 5 of"),
        (
            [2, 5],
            {"inert": [1], "untrained": [6], "lagging": [4]},
            "the audit misses block 3, which was frozen by mistake (besides blocks 1, 4, 6), and accuses",
        ),
    ],
)
def test_the_conclusion_follows_from_the_results(accused: list[int], named: dict[str, list[int]], words: str) -> None:
    audits = [audited("sound", 4.17, untrained=accused), audited("frozen", 4.22, **named)]
    assert conclusion(audits).startswith("At step 300 the two training losses lie 0.05 nats apart; ")
    assert words in conclusion(audits)


def test_the_table_shows_each_loss_and_each_block_named() -> None:
    printed = StringIO()
    console = Console(width=100, file=printed)
    console.print(
        table([audited("sound", 4.17), audited("frozen", 4.22, None, inert=[3], untrained=[1, 2], lagging=[5])])
    )
    sound, frozen = (line for line in printed.getvalue().splitlines() if " 300 " in line)
    assert all(text in sound for text in ("4.170", "4.200", "4.500", "4.300", "holds", "none"))
    assert all(
        text in frozen for text in ("4.220", "4.200", "—", "4.300", "holds", "inert 3; untrained 1, 2; lagging 5")
    )
