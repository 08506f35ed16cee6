import json
import shlex
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from peelbound.service.report.reproduce import audit_command, is_abridged, request_json
from tests.report_fixture import REQUEST


def with_calibration(**changes: Any) -> dict[str, Any]:
    return {**REQUEST, "calibration": {**REQUEST["calibration"], **changes}}


def test_the_request_is_the_body_that_was_sent() -> None:
    assert json.loads(request_json(REQUEST)) == REQUEST
    assert not is_abridged(REQUEST)


def test_long_inline_documents_are_counted_not_printed() -> None:
    request = with_calibration(uri=None, texts=["a secret"] * 300)
    assert is_abridged(request)
    assert "300 documents" in request_json(request)
    assert "secret" not in request_json(request)
    assert audit_command(request) is None


def test_short_inline_documents_are_printed() -> None:
    assert "one line" in request_json(with_calibration(uri=None, texts=["one line"]))


def test_the_command_says_the_main_choices() -> None:
    assert shlex.split((audit_command(REQUEST) or "").replace("\\\n", "")) == [
        "peelbound",
        "audit",
        "s3://models/baseline/step-00800",
        "--calibration",
        "s3://corpora/stdlib-heldout.jsonl",
        "--provenance",
        "unseen",
        "--preset",
        "standard",
        "--seed",
        "0",
    ]


@given(st.text(min_size=1).filter(lambda text: "\\\n" not in text))
def test_no_checkpoint_name_can_run_a_command(checkpoint: str) -> None:
    command = audit_command({**REQUEST, "checkpoint": checkpoint}) or ""
    assert shlex.split(command.replace("\\\n", ""))[2] == checkpoint


def test_a_request_without_calibration_data_has_no_command() -> None:
    assert audit_command({"checkpoint": "x"}) is None
    assert json.loads(request_json({"checkpoint": "x"})) == {"checkpoint": "x"}
