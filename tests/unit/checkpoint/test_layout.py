"""Several stored tensors become one of the model: fused ones, packed ones, and both at once."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from peelbound.workers.checkpoint.decoders import PLAIN, Decoder, Fused
from peelbound.workers.checkpoint.header import StoredTensor
from peelbound.workers.checkpoint.layout import Placed, Weight, in_order
from peelbound.workers.checkpoint.part import Part


@dataclass(frozen=True)
class Stack:
    """Experts side by side."""

    dim: int = 0

    def __call__(self, tensors):
        return torch.stack(list(tensors), self.dim)


@dataclass(frozen=True)
class Scaled(Decoder):
    """Codes times a scale."""

    factor: float = 1.0

    def decode(self, raw):
        codes, scale = raw
        return codes.tensor().float() * scale.float32() * self.factor


def stored(name, tensor, start=0):
    dtype = {torch.float32: "F32", torch.int8: "I8", torch.float16: "F16"}[tensor.dtype]
    return StoredTensor(name, "f", dtype, tuple(tensor.shape), start, tensor.nbytes)


def part_of(placed, content):
    """The part as a checkpoint would read it, `content` by stored name."""
    layout = in_order(placed)
    raw = b"".join(content[s.name].reshape(-1).view(torch.uint8).numpy().tobytes() for s in layout.stored)
    return Part.of(1, np.frombuffer(raw, np.uint8), layout.entries, layout.logical)


def packed(name, codes, scale, factor=1.0):
    return Weight(tuple(codes.shape), Scaled(factor), (stored(f"{name}.codes", codes), stored(f"{name}.scale", scale)))


def test_experts_are_stacked_in_the_order_of_their_placement():
    experts = {f"experts.{i}.w": torch.randn(2, 3) for i in (1, 0, 10)}
    weights = tuple(Weight.plain(stored(name, tensor)) for name, tensor in experts.items())
    part = part_of([Placed(1, "experts.w", weights, Stack())], experts)
    assert torch.equal(part.tensors()["experts.w"], torch.stack(list(experts.values())))
    assert part.grids() == {}


def test_packed_experts_are_decoded_each_and_then_stacked():
    content, weights = {}, []
    for i in range(2):
        codes, scale = torch.randint(-4, 4, (2, 3), dtype=torch.int8), torch.tensor([0.5 + i], dtype=torch.float16)
        content |= {f"{i}.codes": codes, f"{i}.scale": scale}
        weights.append(packed(str(i), codes, scale))
    part = part_of([Placed(1, "w", tuple(weights), Stack(1))], content)
    expected = torch.stack([content["0.codes"] * 0.5, content["1.codes"] * 1.5], 1)
    assert torch.equal(part.tensors()["w"], expected)


def test_what_two_tensors_are_made_of_is_read_once():
    tensor = torch.randn(4, 2)
    weight = Weight.plain(stored("fused", tensor))
    placed = [Placed(1, name, (weight,), Stack()) for name in ("a", "b")]
    part = part_of(placed, {"fused": tensor})
    assert len(part.entries) == 1
    assert part.data.nbytes == tensor.nbytes
    assert torch.equal(part.tensors()["a"], part.tensors()["b"])


def test_a_scale_that_is_not_finite_is_named(refused):
    codes, scale = torch.zeros(2, 3, dtype=torch.int8), torch.tensor([torch.nan])
    part = part_of([Placed(1, "q.weight", (packed("q", codes, scale),))], {"q.codes": codes, "q.scale": scale})
    refused(part.tensors, "checkpoint-not-finite", "block 1: q.weight:scale has 1 NaN or Inf")


@pytest.mark.parametrize("change", ["factor", "order", "fuse"])
def test_how_a_tensor_is_made_is_part_of_the_digest(change):
    codes, scale = torch.ones(1, dtype=torch.int8), torch.tensor([1.0])
    one, other = stored("one", scale), stored("other", scale)
    content = {"q.codes": codes, "q.scale": scale, "one": scale, "other": scale}

    def sha(factor=1.0, order=(one, other), dim=0):
        fused = Placed(1, "e", tuple(map(Weight.plain, order)), Stack(dim))
        return part_of([Placed(1, "q", (packed("q", codes, scale, factor),)), fused], content).sha256

    changed = {"factor": {"factor": 2.0}, "order": {"order": (other, one)}, "fuse": {"dim": 1}}[change]
    assert sha() != sha(**changed)


def test_plain_tensors_keep_the_digest_that_they_had_before_decoders():
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    part = part_of([Placed(1, "w", (Weight.plain(stored("w", tensor)),))], {"w": tensor})
    assert part.sha256 == Part.of(1, part.data, part.entries).sha256
    assert part.sha256 == "0c692d7d15444384dbc516dfdf407adff883399a8b30f2657d403b94bb5f8edd"


def test_decoders_survive_pickling():
    decoder = Fused((PLAIN, Scaled(2.0)), (1, 2), Stack())
    assert pickle.loads(pickle.dumps(decoder)) == decoder
