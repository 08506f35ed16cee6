import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from peelbound.workers.checkpoint.strict_json import MAX_DEPTH, parse_object, quoted
from peelbound.workers.errors import CheckpointError


def parse(raw):
    return parse_object(raw, file="index.json", slug="checkpoint-index-invalid", remedy="Write it again.")


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers() | st.text(st.characters(codec="utf-8"))))
def test_reads_what_json_wrote(value):
    assert parse(json.dumps(value).encode()) == value


@given(st.binary() | st.text('{}[]:,"a1 \\ud8').map(str.encode))
@example(b"[" * 200_000)
@example(b'{"a":' + b"9" * 5000 + b"}")
@example("﻿{}".encode())
@example("{}".encode("utf-16"))
def test_any_bytes_give_an_object_or_a_typed_error(attempt, raw):
    outcome = attempt(lambda: parse(raw))
    if isinstance(outcome, CheckpointError):
        assert outcome.slug == "checkpoint-index-invalid"
        assert outcome.detail.startswith("index.json is not a valid JSON object")
        str(outcome).encode()
    else:
        assert isinstance(outcome, dict)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 200, 990])
@pytest.mark.parametrize(("opening", "closing"), [('{"a":', "}"), ("[", "]")])
def test_refuses_what_is_nested_too_deeply(refused, depth, opening, closing):
    inner = opening * (depth - 1) + "0" + closing * (depth - 1)
    refused(lambda: parse(f'{{"a": {inner}}}'.encode()), "checkpoint-index-invalid", "nested too deeply")


def test_reads_what_is_nested_as_deeply_as_allowed():
    assert parse(b'{"a":' * MAX_DEPTH + b"0" + b"}" * MAX_DEPTH)


@pytest.mark.parametrize("raw", [b"[]", b"1", b"null", b'"text"', b"NaN"])
def test_refuses_what_is_no_object(refused, raw):
    refused(lambda: parse(raw), "checkpoint-index-invalid", "index.json", "and not an object")


def test_a_key_that_occurs_twice_is_named_however_deep(refused):
    refused(lambda: parse(b'{"a": [{"b": 1, "c": 2, "b": 3}]}'), "checkpoint-index-invalid", "'b' occurs twice")


@given(st.text(min_size=1000, max_size=1200) | st.lists(st.text(min_size=300), min_size=10))
def test_quoted_values_stay_short_enough_for_a_message(value):
    assert len(quoted(value)) < 1200
