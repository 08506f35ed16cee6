import pytest

from peelbound.service.report.citations import MOST, Reference, references
from peelbound.service.schemas.report import Citation
from tests.synthetic_reports.whole import sound_report

REPORT = sound_report()


def names(*citations: tuple[str, float | int | str | bool | None]) -> list[tuple[str, str]]:
    drawn = references(REPORT, [Citation(path=path, value=value) for path, value in citations])
    return [(reference.name, reference.value) for reference in drawn]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/blocks/2/skip_cost/estimate", "block 3, skip cost"),
        ("/blocks/2/skip_cost/high", "block 3, skip cost, high end"),
        ("/networks/0/gain_over_control/low", "YES-0, gain over control, low end"),
        ("/matrix/0/residual", "h0 → h1, residual"),
        ("/calibration/splits/check/documents", "calibration, check, documents"),
        ("/blocks/99/gain/estimate", "blocks, 99, gain"),
        ("/", "value"),
    ],
)
def test_paths_become_names(path: str, name: str) -> None:
    assert names((path, 0.5)) == [(name, "0.5000")]


def test_an_estimate_and_its_ends_become_one() -> None:
    cited = names(("/blocks/4/gain/low", 0.0052), ("/blocks/4/gain/estimate", 0.0071), ("/blocks/4/gain/high", 0.009))
    assert cited == [("block 5, gain", "0.0071 [0.0052, 0.0090]")]


def test_scores_have_one_decimal() -> None:
    cited = names(("/blocks/4/mlp_scale/z", 13.2529), ("/blocks/4/scale_limit", 6.0))
    assert cited == [("block 5, mlp scale, z", "+13.3"), ("block 5, scale limit", "6.0")]


def test_ends_without_their_estimate_stand_alone() -> None:
    assert names(("/blocks/4/gain/low", 0.0052)) == [("block 5, gain, low end", "0.0052")]


def test_what_is_no_measurement_is_left_to_the_sentence() -> None:
    assert (
        names(
            ("/blocks/2/index", 3),
            ("/blocks/2/finding", "inert"),
            ("/positive_control/damage_seen", True),
            ("/settings/thresholds/level", 0.95),
        )
        == []
    )


def test_many_citations_do_not_bury_the_sentence() -> None:
    assert len(names(*((f"/blocks/{i}/chosen_rho", 0.0) for i in range(40)))) == MOST


def test_a_reference_leads_to_its_section() -> None:
    [reference] = references(REPORT, [Citation(path="/trained/fit", value=3.2604)])
    assert reference == Reference("trained, fit", "3.2604", "/trained/fit", "losses")
