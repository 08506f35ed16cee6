from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.demo import FROZEN_BLOCK, Audited, Checkpoint, conclusion, table
from peelbound.service.schemas.record import AuditRecord, AuditState
from peelbound.service.schemas.report import CheckpointVerdict, CloudSummary, Summary
from peelbound.service.schemas.request import AuditRequest, Calibration


def audited(run: str, loss: float, *, inert: list[int], lagging: list[int], bound: float | None = 4.5) -> Audited:
    summary = Summary(
        status=CheckpointVerdict.HOLDS,
        headline="",
        cloud=CloudSummary(
            trained_fit=4.1, trained_check=4.2, head_control_fit=4.0, head_control_check=4.3, bound_check=bound
        ),
        inert_blocks=inert,
        lagging_blocks=lagging,
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
    ("accused", "inert", "lagging", "words"),
    [
        ([], [FROZEN_BLOCK], [], "the audit names block 3, which was frozen by mistake, and accuses no block of"),
        ([], [], [], "the audit misses block 3, which was frozen by mistake, and accuses no block of"),
        ([5], [FROZEN_BLOCK], [], "the audit names block 3, which was frozen by mistake, and accuses block 5 of"),
        ([2, 5], [1], [4], "the audit misses block 3, which was frozen by mistake (besides blocks 1, 4), and accuses"),
    ],
)
def test_the_conclusion_follows_from_the_results(
    accused: list[int], inert: list[int], lagging: list[int], words: str
) -> None:
    audits = [
        audited("sound", 4.17, inert=accused, lagging=[]),
        audited("frozen", 4.22, inert=inert, lagging=lagging),
    ]
    assert conclusion(audits).startswith("At step 300 the two training losses lie 0.05 nats apart; ")
    assert words in conclusion(audits)


def test_the_table_shows_each_loss_and_each_block_named() -> None:
    printed = StringIO()
    console = Console(width=100, file=printed)
    console.print(
        table(
            [audited("sound", 4.17, inert=[], lagging=[]), audited("frozen", 4.22, inert=[3], lagging=[5], bound=None)]
        )
    )
    sound, frozen = (line for line in printed.getvalue().splitlines() if " 300 " in line)
    assert all(text in sound for text in ("4.170", "4.200", "4.500", "4.300", "holds", "none"))
    assert all(text in frozen for text in ("4.220", "4.200", "—", "4.300", "holds", "inert 3; lagging 5"))
