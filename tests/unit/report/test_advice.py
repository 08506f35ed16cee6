import dataclasses

import pytest

from peelbound.service.evidence import BlockEvidence, Thresholds
from peelbound.service.findings import judge_blocks
from peelbound.service.report.advice import advice
from peelbound.service.schemas.report import BlockFinding, BlockReport, CheckpointVerdict, Interval, Report
from tests.synthetic_reports.parts import control
from tests.synthetic_reports.whole import build_report, deep_report, estimate_report, frozen_report, sound_report


@pytest.mark.parametrize("status", CheckpointVerdict)
def test_every_verdict_leads_somewhere(status: CheckpointVerdict) -> None:
    assert advice(build_report(status=status))


def test_an_inert_block_is_named_with_what_to_check() -> None:
    [first, second, *_] = advice(frozen_report())
    assert "block 3 does nothing" in first
    assert "optimiser" in first
    assert "block 5" in second
    assert "too strong" in second


def test_several_blocks_are_named_together() -> None:
    steps = advice(deep_report())
    assert any("blocks 13 and 14 do nothing" in step for step in steps)
    assert any("block 21" in step and "too weak" in step for step in steps)


def test_a_missed_control_comes_first() -> None:
    assert "block 4 was missed" in advice(sound_report(planted=control(seen=False, named=False)))[0]


def test_a_wrongly_named_control_makes_names_leads() -> None:
    assert "no block was named" in advice(sound_report(planted=control(named=False)))[0]


def test_a_sound_checkpoint_gets_one_calm_sentence() -> None:
    [only] = advice(sound_report().model_copy(update={"matrix": []}))
    assert "Nothing to mend" in only


def test_redundant_blocks_are_where_to_shorten_the_network() -> None:
    *_, last = advice(sound_report())
    assert last.startswith("If a shorter network is worth it, start with blocks 4–5: one block in their place")
    assert "fitted to turn h3 into h5, costs +0.0031 [" in last


@pytest.mark.parametrize(
    "made",
    [
        frozen_report(),
        build_report(status=CheckpointVerdict.IMPROVABLE),
        build_report(status=CheckpointVerdict.ADAPTABLE),
        sound_report(planted=control(seen=False, named=False)),
    ],
)
def test_what_is_to_be_mended_or_trained_on_is_not_to_be_shortened(made: Report) -> None:
    (redundant,) = [cell for cell in sound_report().matrix if cell.redundant]
    elsewhere = redundant.model_copy(update={"source": 0, "target": 2})  # of the frozen one these blocks are sound
    assert any("shorter network" in step for step in advice(sound_report().model_copy(update={"matrix": [elsewhere]})))
    assert not any("shorter network" in step for step in advice(made.model_copy(update={"matrix": [elsewhere]})))


def test_a_block_that_lags_for_its_influence_has_advice_of_its_own() -> None:
    sound, frozen = sound_report().blocks, frozen_report()
    faint = sound[1].model_copy(update={"block_influence": 0.002})
    by_influence = report_of_blocks(frozen, [*sound[:1], faint, *sound[2:]])
    assert by_influence.blocks[1].finding is BlockFinding.LAGGING
    assert "Look into block 2: little comes out beside the other blocks" in " ".join(advice(by_influence))
    gaining = faint.model_copy(update={"excess_gain": sound[1].gain.model_copy(update={"low": 1.0})})
    gaining = gaining.model_copy(update={"gain": sound[1].gain.model_copy(update={"low": 0.5, "estimate": 1.0})})
    by_gain = report_of_blocks(frozen, [*sound[:1], gaining, *sound[2:]])
    assert by_gain.blocks[1].finding is BlockFinding.LAGGING
    assert "little comes out" not in " ".join(advice(by_gain))
    assert "re-solving it alone gains more" in " ".join(advice(by_gain))


def report_of_blocks(report: Report, blocks: list[BlockReport]) -> Report:
    """The report with these blocks, judged by the product's rules."""
    fields = [f.name for f in dataclasses.fields(BlockEvidence)]
    judged = judge_blocks([BlockEvidence(**{n: getattr(b, n) for n in fields}) for b in blocks], 100, Thresholds())
    said = [
        b.model_copy(update={"finding": j.finding, "reason": j.reason, "side": j.side})
        for b, j in zip(blocks, judged, strict=True)
    ]
    return report.model_copy(update={"blocks": said})


@pytest.mark.parametrize(
    "report",
    [
        build_report(inert=(3,)),
        build_report(untrained=(3,)),
        build_report(lagging={2: None}),
        sound_report(planted=control(seen=False, named=False)),
    ],
)
def test_where_something_is_named_or_was_missed_there_is_no_word_of_nothing_to_mend(report: Report) -> None:
    steps = advice(report)
    assert steps
    assert not [step for step in steps if "Nothing to mend" in step]


def test_an_inconclusive_audit_says_how_many_documents_would_do() -> None:
    report = build_report(status=CheckpointVerdict.INCONCLUSIVE)
    assert "with at least 601 documents and --check-sequences 210, so that check has the 412" in advice(report)[0]
    unknown = report.verdict.model_copy(update={"smallest_visible_effect": None, "documents_needed": None})
    assert "more of them for select" in advice(report.model_copy(update={"verdict": unknown}))[0]
    beyond = report.verdict.model_copy(update={"check_sequences_needed": 70_000})
    assert "a larger --tolerance" in advice(report.model_copy(update={"verdict": beyond}))[0]
    earlier = report.verdict.model_copy(update={"check_sequences_needed": None, "documents_in_all": None})
    assert "with more check documents" in advice(report.model_copy(update={"verdict": earlier}))[0]


@pytest.mark.parametrize("status", [CheckpointVerdict.IMPROVABLE, CheckpointVerdict.ADAPTABLE])
def test_a_larger_network_is_called_larger(status: CheckpointVerdict) -> None:
    report = build_report(status=status)
    larger = report.verdict.model_copy(update={"extra_parameters": 262_144})
    said = " ".join(advice(report.model_copy(update={"verdict": larger})))
    assert "262,144 parameters more" in said
    assert "better weights exist" not in said
    assert "parameters more" not in " ".join(advice(report))


def test_undeclared_data_are_asked_for() -> None:
    assert any("Declare where the calibration data come from" in step for step in advice(estimate_report()))


@pytest.mark.parametrize(("low", "named"), [(0.002, True), (-0.001, False)])
def test_a_block_is_pointed_at_only_where_its_gain_is_shown(low: float, named: bool) -> None:
    """Whole networks or the head may beat a model whose blocks gain nothing each."""
    report = build_report(status=CheckpointVerdict.IMPROVABLE)
    gain = Interval(estimate=0.004, low=low, high=0.009, standard_error=0.002)
    summary = report.summary.model_copy(update={"best_block": 2, "best_block_gain": gain})
    steps = advice(report.model_copy(update={"summary": summary}))
    assert any("Block 2 alone gives" in step for step in steps) is named
