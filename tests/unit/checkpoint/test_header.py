import json
import tracemalloc

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from peelbound.workers.checkpoint.header import ITEM_BYTES, parse_header, read_header
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.errors import CheckpointError

FILE = "model.safetensors"


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_reference_implementation_wrote(reader):
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b": torch.arange(5, dtype=torch.bfloat16),
        "c": torch.tensor(3.0, dtype=torch.float16),
        "empty": torch.zeros(0, 4),
        "mask": torch.ones(3, dtype=torch.bool),
        "ids": torch.arange(4),
    }
    content = save(tensors, metadata={"format": "pt"})
    stored = {tensor.name: tensor for tensor in read_header(reader({FILE: content}), FILE, Limits())}
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = stored[name]
        assert found.file == FILE
        assert found.shape == tuple(tensor.shape)
        raw = content[found.start : found.start + found.length]
        assert raw == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_reads_only_the_header(files):
    source = files({FILE: save({"a": torch.zeros(1000)})})
    read_header(Reader(source), FILE, Limits())
    assert max(start + length for _, start, length in source.reads) == len(source.content[FILE]) - 4000


@pytest.mark.parametrize(
    ("header", "culprits"),
    [
        pytest.param(b"not json", ["begins with"], id="no brace"),
        pytest.param(b" {}", ["begins with"], id="white space first"),
        pytest.param(b"{", ["not a valid JSON object"], id="broken JSON"),
        pytest.param(b'{"\xff": 1}', ["not a valid JSON object", "utf-8"], id="not UTF-8"),
        pytest.param(b'{"a":' * 100_000, ["nested too deeply"], id="nested"),
        pytest.param(b'{"a": 1' + b"0" * 5000 + b"}", ["digits"], id="huge integer"),
        pytest.param(b'{"a": {}, "a": {}}', ["'a'", "twice"], id="tensor twice"),
        pytest.param(b'{"a": {"dtype": "F32", "dtype": "F16"}}', ["'dtype'", "twice"], id="member twice"),
        pytest.param(b'{"\\ud800": {}}', ["surrogates"], id="lone surrogate"),
        pytest.param({"__metadata__": [1], "a": entry()}, ["__metadata__"], id="metadata no object"),
        pytest.param({"__metadata__": {"n": 1}, "a": entry()}, ["__metadata__"], id="metadata no string"),
        pytest.param({"a": None}, ["'a'"], id="entry no object"),
        pytest.param({"a": {"dtype": "F32", "shape": [2]}}, ["'a'", "data_offsets"], id="member missing"),
        pytest.param({"a": entry() | {"more": 1}}, ["'a'"], id="member left over"),
        pytest.param({"n" * 513: entry()}, ["512 characters"], id="long name"),
        pytest.param({"a": entry(shape=[-2])}, ["'a'", "shape"], id="negative size"),
        pytest.param({"a": entry(shape=[2.0])}, ["'a'", "shape"], id="fractional size"),
        pytest.param({"a": entry(shape=[True, 2])}, ["'a'", "shape"], id="size a bool"),
        pytest.param({"a": entry(shape=[1] * 9)}, ["'a'", "shape"], id="too many dimensions"),
        pytest.param({"a": entry(shape=[2**32, 2**32])}, ["'a'", f"{2**66:,}"], id="product beyond 64 bits"),
        pytest.param({"a": entry(shape=[2**63, 0])}, ["'a'", "shape"], id="size beyond 64 bits"),
        pytest.param({"a": entry(shape=[3])}, ["'a'", "8", "12"], id="length and shape differ"),
        pytest.param({"a": entry(offsets=[8, 0])}, ["'a'", "data_offsets"], id="ends before it begins"),
        pytest.param({"a": entry(offsets=[0, 4, 8])}, ["'a'", "data_offsets"], id="three offsets"),
        pytest.param({"a": entry(offsets=[-8, 0])}, ["'a'", "data_offsets"], id="negative offset"),
        pytest.param({"a": entry(), "b": entry(offsets=[4, 12])}, ["'b'", "overlap", "'a'"], id="overlap"),
        pytest.param({"a": entry(), "b": entry()}, ["overlap"], id="the same bytes twice"),
        pytest.param({"a": entry([1], [0, 4]), "b": entry([1], [8, 12])}, ["4 bytes", "'b'"], id="hole"),
        pytest.param({"a": entry([1], [4, 8])}, ["4 bytes", "'a'"], id="hole at the start"),
        pytest.param({"a": entry([1], [0, 4])}, ["8 bytes at its end"], id="bytes left over"),
        pytest.param({}, ["12 bytes at its end"], id="no tensors"),
    ],
)
def test_refuses_an_invalid_header(reader, safetensors_file, refused, header, culprits):
    content = safetensors_file(header, bytes(12))
    refused(lambda: read_header(reader({FILE: content}), FILE, Limits()), "checkpoint-header-invalid", FILE, *culprits)


def test_refuses_an_unknown_dtype(reader, safetensors_file, refused):
    for dtype in ("F31", "f32", "", None, ["F32"]):
        content = safetensors_file({"w": entry(dtype=dtype)}, bytes(8))
        refused(
            lambda content=content: read_header(reader({FILE: content}), FILE, Limits()),
            "checkpoint-dtype-unknown",
            FILE,
            "'w'",
            repr(dtype),
        )


def test_refuses_a_header_beyond_the_bound_before_reading_it(files, refused):
    for length in (Limits().header_bytes + 1, 2**64 - 1):
        source = files({FILE: length.to_bytes(8, "little") + b"{}"})
        refused(
            lambda source=source: read_header(Reader(source), FILE, Limits()),
            "checkpoint-header-too-large",
            FILE,
            f"{length:,}",
            f"{Limits().header_bytes:,}",
        )
        assert source.reads == [(FILE, 0, 8)]


def test_refuses_more_tensors_than_the_bound(reader, refused):
    content = save({name: torch.zeros(1) for name in "abc"})
    refused(
        lambda: read_header(reader({FILE: content}), FILE, Limits(tensors=2)), "checkpoint-header-invalid", "3 tensors"
    )


def test_every_truncation_is_named_with_its_sizes(reader, refused):
    content = save({"a": torch.zeros(3), "b": torch.zeros(2)})
    for size in range(len(content)):
        error = refused(
            lambda size=size: read_header(reader({FILE: content[:size]}), FILE, Limits()),
            "checkpoint-truncated",
            FILE,
            f"the file has {size:,}",
        )
        assert error.extra["actual_bytes"] == size
        assert size < error.extra["expected_bytes"] <= len(content)


SAMPLE = save(
    {"model.norm": torch.zeros(4), "model.w": torch.zeros(2, 3, dtype=torch.bfloat16), "mask": torch.ones(2).bool()},
    metadata={"format": "pt"},
)
SAMPLE_HEADER = 8 + int.from_bytes(SAMPLE[:8], "little")


@st.composite
def mutations(draw):
    """A valid file with a few edits, most of them in the header, some of which keep its length field in step."""
    content = bytearray(SAMPLE)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(SAMPLE_HEADER, len(content)) - 1))
        match draw(st.sampled_from(["replace", "letter", "delete", "insert", "cut"])):
            case "replace":
                content[at] = draw(st.integers(0, 255))
            case "letter":
                content[at] = draw(st.sampled_from(b'0123456789-[]{},:" abFUI'))
            case "delete":
                del content[at]
            case "insert":
                content[at:at] = draw(st.binary(max_size=8))
            case "cut":
                del content[at + draw(st.integers(8, len(SAMPLE))) :]
        if len(content) < 9:
            return bytes(content)
    if draw(st.booleans()):
        length = draw(st.integers(0, len(content)))
        content[:8] = length.to_bytes(8, "little")
    elif draw(st.booleans()):
        content[:8] = max(0, len(content) - (len(SAMPLE) - SAMPLE_HEADER) - 8).to_bytes(8, "little")
    return bytes(content)


@settings(max_examples=1500, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(mutations())
@example(SAMPLE)
def test_a_mutated_file_is_refused_or_read_as_the_reference_reads_it(files, attempt, content):
    source = files({FILE: content})
    tracemalloc.start()
    outcome = attempt(lambda: read_header(Reader(source), FILE, Limits()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    if isinstance(outcome, CheckpointError):
        assert outcome.slug.startswith("checkpoint-")
        return
    expected = dict(safetensors.deserialize(content))
    assert {t.name: (t.dtype, list(t.shape), content[t.start : t.start + t.length]) for t in outcome} == {
        name: (tensor["dtype"], tensor["shape"], bytes(tensor["data"])) for name, tensor in expected.items()
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
sizes = st.integers(-1, 4) | st.integers() | json_values
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from([*ITEM_BYTES, "F4"]) | json_values},
    optional={
        "shape": st.lists(sizes, max_size=3) | json_values,
        "data_offsets": st.lists(sizes, min_size=2, max_size=2) | json_values,
    },
)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.text(max_size=4), entries | json_values, max_size=3), st.integers(0, 40))
def test_any_json_is_refused_or_covers_the_file_exactly(attempt, header, data_bytes):
    raw = json.dumps(header).encode()
    size = 8 + len(raw) + data_bytes
    tensors = attempt(lambda: parse_header(raw, file=FILE, file_bytes=size, limits=Limits()))
    if isinstance(tensors, CheckpointError):
        assert tensors.slug.startswith("checkpoint-")
        return
    covered = np.zeros(data_bytes, dtype=int)
    for tensor in tensors:
        assert tensor.length == np.prod(tensor.shape, dtype=object) * ITEM_BYTES[tensor.dtype]
        covered[tensor.start - 8 - len(raw) :][: tensor.length] += 1
    assert (covered == 1).all()
