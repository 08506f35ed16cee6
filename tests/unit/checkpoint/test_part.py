import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peelbound.workers.checkpoint.part import Part, TensorEntry

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def part_of(tensors, index=1):
    names = {dtype: name for name, dtype in DTYPES.items()}
    chunks, entries, offset = [], [], 0
    for name, tensor in tensors.items():
        raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        entries.append(TensorEntry(name, names[tensor.dtype], tuple(tensor.shape), offset, len(raw)))
        chunks.append(raw)
        offset += len(raw)
    return Part.of(index, np.frombuffer(b"".join(chunks), np.uint8), entries)


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_every_16_bit_pattern_converts_as_torch_converts_it(dtype):
    finite = (
        torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16 if dtype == torch.float32 else dtype)
    )
    tensor = finite[torch.isfinite(finite)].to(dtype)
    converted = part_of({"w": tensor}).tensors()["w"]
    assert converted.dtype == torch.float32
    assert torch.equal(converted.view(torch.int32), tensor.float().view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_nan_and_infinity_is_found(refused, dtype):
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    bad = patterns[~torch.isfinite(patterns)]
    refused(part_of({"w": bad}).tensors, "checkpoint-not-finite", f"w has {len(bad):,} NaN or Inf")
    for value in bad[:: len(bad) // 50]:  # signalling ones and quiet ones, each alone among sound values
        refused(
            part_of({"w": torch.stack([value, torch.ones_like(value)])}).tensors,
            "checkpoint-not-finite",
            "w has 1 NaN or Inf",
        )


def test_shapes_and_mixed_dtypes():
    tensors = {
        "a": torch.randn(2, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "b": torch.randn(3).half(),
        "c": torch.randn(4, 1, 2).bfloat16(),
    }
    converted = part_of(tensors).tensors()
    assert list(converted) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(converted[name], tensor.float())


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_tensors_are_copies_and_leave_the_bytes_alone(dtype):
    part = part_of({"w": torch.ones(4, dtype=dtype)})
    writable = Part.of(part.index, part.data.copy(), part.entries)
    writable.tensors()["w"].zero_()
    assert torch.equal(writable.tensors()["w"], torch.ones(4))


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_named_by_block_and_tensor(refused, dtype, value):
    weight = torch.zeros(3, 7, dtype=dtype)
    weight[1, :5] = value
    part = part_of({"norm.weight": torch.ones(3), "self_attn.q_proj.weight": weight}, index=3)
    error = refused(part.tensors, "checkpoint-not-finite", "block 3: self_attn.q_proj.weight has 5 NaN or Inf values")
    assert error.extra == {"part": 3, "tensor": "self_attn.q_proj.weight"}


def test_the_rest_is_named_as_such(refused):
    part = part_of({"model.norm.weight": torch.tensor([torch.nan])}, index=0)
    refused(part.tensors, "checkpoint-not-finite", "the rest", "model.norm.weight")


def test_pickles_with_its_bytes_out_of_band_and_works_on_a_read_only_copy():
    part = part_of({"w": torch.randn(1000), "h": torch.randn(10).bfloat16()})
    buffers: list[pickle.PickleBuffer] = []
    frame = pickle.dumps(part, protocol=5, buffer_callback=buffers.append)
    assert len(frame) < 2000
    received = pickle.loads(frame, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert not received.data.flags.writeable
    assert received.sha256 == part.sha256
    assert received.entries == part.entries
    for name, tensor in part.tensors().items():
        assert torch.equal(received.tensors()[name], tensor)


@given(st.lists(st.integers(0, 255), min_size=8, max_size=8), st.integers(0, 7), st.integers(1, 255))
def test_a_changed_byte_changes_the_digest(raw, at, change):
    entries = (TensorEntry("w", "F32", (2,), 0, 8),)
    data = np.array(raw, np.uint8)
    other = data.copy()
    other[at] ^= change
    assert Part.of(1, data, entries).sha256 != Part.of(1, other, entries).sha256


@pytest.mark.parametrize(
    "entry",
    [
        TensorEntry("v", "F32", (2,), 0, 8),
        TensorEntry("w", "F16", (4,), 0, 8),
        TensorEntry("w", "F32", (1, 2), 0, 8),
    ],
)
def test_name_dtype_and_shape_are_part_of_the_digest(entry):
    data = np.zeros(8, np.uint8)
    assert Part.of(1, data, [entry]).sha256 != Part.of(1, data, [TensorEntry("w", "F32", (2,), 0, 8)]).sha256
