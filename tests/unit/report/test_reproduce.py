import json
import shlex
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelbound.cli.request_options import request_options
from peelbound.service.report.reproduce import audit_command, is_abridged, request_json
from peelbound.service.schemas.request import AuditRequest
from tests.synthetic_reports.whole import REQUEST


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


def parsed(command: str) -> AuditRequest:
    """What the command line itself makes of a command."""
    requests: list[AuditRequest] = []

    @click.command()
    @request_options
    def probe(request: AuditRequest) -> None:
        requests.append(request)

    program, name, *arguments = shlex.split(command.replace("\\\n", ""))
    assert (program, name) == ("peelbound", "audit")
    probe.main(arguments, standalone_mode=False)
    return requests[0]


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        {**REQUEST, "preset": "quick", "seed": 7, "options": {"tolerance": 0.02, "maps": [[2, 4], [4]]}},
        {**REQUEST, "options": {"precision": "bfloat16", "compile": True}},
        {**REQUEST, "options": {"compile": False}},
        {**REQUEST, "what_if": "int4-g32"},
        {**REQUEST, "baseline": "s3://models/baseline/before quantisation"},
        with_calibration(text_field="the body", split_seed=3, check_sequences=12, sequence_length=64),
        with_calibration(uri="file:///data/it's here/$(touch x).jsonl", provenance="trained_on"),
    ],
)
def test_the_command_asks_for_the_same_audit(request_: dict[str, Any]) -> None:
    command = audit_command(request_)
    assert command is not None
    assert command.exact
    assert parsed(command.text).identity() == AuditRequest.model_validate(request_).identity()


def test_a_command_that_lacks_an_option_says_so() -> None:
    command = audit_command({**REQUEST, "options": {"rhos": [0.5]}})
    assert command is not None
    assert not command.exact


@given(st.text(min_size=1).filter(lambda text: "\\\n" not in text))
def test_no_checkpoint_name_can_run_a_command(checkpoint: str) -> None:
    command = audit_command({**REQUEST, "checkpoint": checkpoint})
    assert command is not None
    assert shlex.split(command.text.replace("\\\n", ""))[2] == checkpoint


def test_a_request_without_calibration_data_has_no_command() -> None:
    assert audit_command({"checkpoint": "x"}) is None
    assert json.loads(request_json({"checkpoint": "x"})) == {"checkpoint": "x"}
