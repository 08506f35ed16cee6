"""Mixtures of experts: fused as the library fuses them, routed alike every time, and solved like any other block."""

import json
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from peelbound.workers import damage, passes
from peelbound.workers.architecture import Architecture
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.errors import CheckpointError, UnsupportedModel
from peelbound.workers.linear_maps import LinearMap
from peelbound.workers.recipes import StateSettings
from peelbound.workers.solver import solve_state
from tests.numerics import no_interruption
from tests.tiny_models import MIXTURES, tiny_config
from tests.unit.checkpoint.conftest import Files
from tests.unit.skeleton.conftest import Subject

Subjects = Callable[[str], Subject]
every_mixture = pytest.mark.parametrize("family", MIXTURES)


def shapes(it: Subject) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in it.files.items()}


def refusal(call: Callable[[], Any]) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        call()
    assert caught.value.pointer == "/checkpoint"
    return caught.value


@every_mixture
def test_blocks_are_those_that_the_library_loads(family: str, subject: Subjects) -> None:
    """Read one at a time from the files, without a byte of any other block."""
    it = subject(family)
    loaded = AutoModelForCausalLM.from_pretrained(it.directory, dtype=torch.float32)
    source = Files.under(it.directory)
    checkpoint = Checkpoint.open(source)
    prefix = f"{it.architecture.blocks_name}."
    for index in range(1, it.architecture.block_count + 1):
        source.reads.clear()
        part = pickle.loads(pickle.dumps(checkpoint.read_part(index)))
        assert sum(length for _, _, length in source.reads) == part.data.nbytes == checkpoint.part_bytes[index]
        tensors = part.tensors()
        want = {n: t for n, t in loaded.state_dict().items() if n.startswith(f"{prefix}{index - 1}.")}
        assert {f"{prefix}{index - 1}.{name}" for name in tensors} == set(want)
        for name, tensor in tensors.items():
            assert torch.equal(tensor, want[f"{prefix}{index - 1}.{name}"]), name


def test_a_block_of_experts_is_read_in_few_pieces(subject: Subjects) -> None:
    """Neighbours in the file, of which the model makes two parameters, are neighbours in the part."""
    source = Files.under(subject("mixtral").directory)
    checkpoint = Checkpoint.open(source)
    source.reads.clear()
    checkpoint.read_part(2)
    assert len(source.reads) == 1


def test_experts_are_taken_by_number_not_by_name() -> None:
    architecture = Architecture.from_config_json(tiny_config("mixtral", num_local_experts=12))
    files = {
        name: tuple(p.shape) for name, p in architecture.empty_model().named_parameters() if ".experts." not in name
    }
    experts = {
        f"model.layers.{b}.block_sparse_moe.experts.{e}.{w}.weight": (64, 32) if w != "w2" else (32, 64)
        for b in range(3) for e in range(12) for w in ("w1", "w2", "w3")
    }  # fmt: skip
    placed = {(p.part, p.name): p for p in architecture.place({**files, **experts})}
    placement = placed[2, "mlp.experts.gate_up_proj"]
    assert [name.split(".")[5] + name.split(".")[6] for name in placement.stored] == [
        f"{e}{w}" for w in ("w1", "w3") for e in range(12)
    ]
    numbers = [torch.full((64, 32), float(i)) for i in range(24)]
    assert placement.conversion is not None
    fused = placement.conversion(numbers)
    assert fused.shape == (12, 128, 32)
    assert fused[:, ::64, 0].tolist() == [[float(e), float(12 + e)] for e in range(12)]


def test_files_that_hold_the_fused_parameter_itself_are_taken_as_they_are(subject: Subjects) -> None:
    it = subject("qwen3_moe")
    fused = {name: tuple(t.shape) for name, t in it.whole.state_dict().items()}
    assert all(p.conversion is None for p in it.architecture.place(fused))


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        (lambda s: s.pop("model.layers.1.mlp.experts.3.down_proj.weight"), "checkpoint-tensor-shape"),
        (lambda s: s.pop("model.layers.1.mlp.experts.2.down_proj.weight"), "checkpoint-tensors-missing"),
        (lambda s: s.pop("model.layers.1.mlp.experts.2.up_proj.weight"), "checkpoint-tensors-missing"),
        (lambda s: [s.pop(n) for n in list(s) if "1.mlp.experts" in n and "up" in n], "checkpoint-tensors-missing"),
        (lambda s: s.update({"model.layers.1.mlp.experts.1.up_proj.weight": (3, 3)}), "checkpoint-tensors-missing"),
        (lambda s: s.update({"model.layers.1.mlp.experts.4.down_proj.weight": (32, 16)}), "checkpoint-tensor-shape"),
        (lambda s: s.update({"model.layers.1.mlp.experts.x.down_proj.weight": (32, 16)}), "checkpoint-tensors-missing"),
        (lambda s: s.update({"model.layers.9.mlp.experts.0.down_proj.weight": (3,)}), "checkpoint-tensors-unexpected"),
        (lambda s: s.update({"model.layers.1.mlp.experts.down_proj": (4, 32, 16)}), "checkpoint-tensors-duplicate"),
    ],
)  # fmt: skip
def test_experts_that_do_not_fit_are_refused(change: Callable[[Any], Any], slug: str, subject: Subjects) -> None:
    it = subject("qwen3_moe")
    files = shapes(it)
    change(files)
    error = refusal(lambda: it.architecture.place(files))
    assert error.slug == slug
    assert "experts" in error.detail


def test_a_layout_that_only_a_whole_model_can_be_read_from_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No decoder of this version of the library needs one: its rules are stood in for."""
    from transformers.core_model_loading import PermuteForRope, WeightConverter

    from peelbound.workers import renames

    rule = WeightConverter("wqkv", ["q_proj", "k_proj"], [PermuteForRope()])
    monkeypatch.setattr(renames, "get_model_conversion_mapping", lambda model: [rule])
    llama = Architecture.from_config_json(tiny_config("llama"))
    with pytest.raises(UnsupportedModel) as caught:
        llama.place({"model.layers.0.self_attn.wqkv.weight": (64, 32)})
    assert caught.value.slug == "model-conversion"


def test_one_stored_tensor_may_become_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before: the library splits fused projections of some families, none of which is a decoder."""
    from transformers.core_model_loading import Chunk, WeightConverter

    from peelbound.workers import renames

    rule = WeightConverter("mlp.gate_up.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"], [Chunk(dim=0)])
    monkeypatch.setattr(renames, "get_model_conversion_mapping", lambda model: [rule])
    llama = Architecture.from_config_json(tiny_config("llama"))
    files = {name: tuple(p.shape) for name, p in llama.empty_model().named_parameters()}
    for block in range(3):
        for half in ("gate", "up"):
            del files[f"model.layers.{block}.mlp.{half}_proj.weight"]
        files[f"model.layers.{block}.mlp.gate_up.weight"] = (128, 32)
    placed = {(p.part, p.name): p for p in llama.place(files)}
    both = torch.arange(128.0 * 32).reshape(128, 32)
    for name, half in (("mlp.gate_proj.weight", both[:64]), ("mlp.up_proj.weight", both[64:])):
        placement = placed[2, name]
        assert placement.stored == ("model.layers.1.mlp.gate_up.weight",)
        assert placement.conversion is not None
        assert torch.equal(placement.conversion([both]), half)


@pytest.mark.parametrize("experts", [10**9, 2**70])
def test_more_experts_than_any_model_has_are_refused_before_they_are_made(experts: int) -> None:
    for family, name in (("mixtral", "num_local_experts"), ("deepseek_v3", "n_routed_experts")):
        raw = {**tiny_config(family), name: experts}
        assert refusal(lambda raw=raw: Architecture.from_config_json(raw)).slug == "checkpoint-config-invalid"


@every_mixture
def test_the_same_grains_give_the_same_bits_in_every_run_and_shard(family: str, subject: Subjects) -> None:
    it = subject(family)
    states = torch.randn(6, 12, it.architecture.hidden_size, generator=torch.Generator().manual_seed(4)).numpy()
    for index, block in it.blocks():
        whole = passes.forward(it.skeleton, index, block, states, 2)
        backward = passes.backward(it.skeleton, index, block, states, states, 2).gradient
        for shards in ((0, 6), (0, 2, 6), (0, 4, 6)):
            spans = [slice(a, b) for a, b in pairwise(shards)]
            parts = [passes.forward(it.skeleton, index, block, states[s], 2) for s in spans]
            assert np.array_equal(np.concatenate(parts), whole)
            parts = [passes.backward(it.skeleton, index, block, states[s], states[s], 2).gradient for s in spans]
            assert np.array_equal(np.concatenate(parts), backward)
        other = passes.forward(it.skeleton, index, block, states, 3)
        assert np.allclose(other, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "routers", "experts"),
    [
        ("mixtral", ["mlp.gate.weight"], [LinearMap("mlp.experts.gate_up_proj", (4, 128, 32)),
                                          LinearMap("mlp.experts.down_proj", (4, 32, 64))]),
        ("qwen2_moe", ["mlp.gate.weight", "mlp.shared_expert_gate.weight"],
         [LinearMap("mlp.experts.gate_up_proj", (4, 32, 32)), LinearMap("mlp.experts.down_proj", (4, 32, 16))]),
        ("gpt_oss", ["mlp.router.weight"], [LinearMap("mlp.experts.gate_up_proj", (4, 32, 128), True),
                                            LinearMap("mlp.experts.down_proj", (4, 64, 32), True)]),
        ("phimoe", ["mlp.router.weight"], [LinearMap("mlp.experts.gate_up_proj", (4, 128, 32)),
                                           LinearMap("mlp.experts.down_proj", (4, 32, 64))]),
        ("jetmoe", ["mlp.router.layer.weight", "self_attention.experts.router.layer.weight"],
         [LinearMap("mlp.input_linear.weight", (4, 128, 32)), LinearMap("mlp.output_linear.weight", (4, 32, 64)),
          LinearMap("self_attention.experts.input_linear.weight", (4, 16, 32)),
          LinearMap("self_attention.experts.output_linear.weight", (4, 32, 16))]),
        ("llama4_text", ["feed_forward.router.weight"],
         [LinearMap("feed_forward.experts.gate_up_proj", (4, 32, 128), True),
          LinearMap("feed_forward.experts.down_proj", (4, 64, 32), True)]),
    ],
)  # fmt: skip
def test_experts_are_linear_maps_and_routers_are_none(
    family: str, routers: list[str], experts: list[LinearMap], subject: Subjects
) -> None:
    it = subject(family)
    found = it.architecture.linear_maps(1)
    names = [each.name for each in found]
    assert [each for each in found if each.count > 1] == experts
    matrices = {n for n, p in it.block(1).named_parameters() if p.ndim > 1 and "bias" not in n}
    assert matrices - set(names) == set(routers)


def test_dense_blocks_among_mixtures_have_maps_of_their_own(subject: Subjects) -> None:
    it = subject("qwen2_moe")
    assert [any(each.count > 1 for each in it.architecture.linear_maps(index)) for index in (1, 2, 3)] == [
        True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "name"),
    [("mixtral", "mlp.experts.gate_up_proj"), ("gpt_oss", "mlp.experts.down_proj"), ("gpt2", "mlp.c_fc.weight")],
)
def test_matrices_are_out_by_in_whatever_the_parameter_is(family: str, name: str, subject: Subjects) -> None:
    it = subject(family)
    (found,) = (each for each in it.architecture.linear_maps(1) if each.name == name)
    weight = it.parts[1][name]
    matrices = found.matrices(weight)
    width = it.architecture.hidden_size
    inner = {"mixtral": (4, 128, width), "gpt_oss": (4, width, 64), "gpt2": (1, 128, width)}[family]
    assert matrices.shape == inner
    assert matrices.data_ptr() == weight.data_ptr()
    assert torch.equal(found.parameter(matrices), weight)


def test_a_fresh_block_of_experts_learns_a_trained_state(subject: Subjects) -> None:
    it = subject("mixtral")
    skeleton, ids = it.skeleton, torch.randint(3, 96, (8, 16), generator=torch.Generator().manual_seed(5))
    inputs = passes.embed(skeleton, ids.numpy(), 4)
    target = passes.forward(skeleton, 1, it.block(1), inputs, 4)
    block = skeleton.fresh_block(1, 0)
    before = {name: p.clone() for name, p in block.named_parameters()}
    distance = np.square(passes.forward(skeleton, 1, block, inputs, 4) - target).mean()
    settings = StateSettings(steps=20, learning_rate=1e-2, batch=4, schedule="cosine", halves=False)
    solve_state(skeleton, 1, block, inputs, target, settings, 0, no_interruption)
    assert np.square(passes.forward(skeleton, 1, block, inputs, 4) - target).mean() < 0.7 * distance
    for name, parameter in block.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_planted_noise_reaches_every_expert(subject: Subjects) -> None:
    it = subject("mixtral")
    noisy = damage.noisy(it.parts[1], 0.5, 0)
    for name in ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"):
        clean = it.parts[1][name]
        for expert in range(4):
            size = (noisy[name][expert] - clean[expert]).std() / clean[expert].std()
            assert 0.4 < size < 0.6


def test_configurations_may_not_choose_how_experts_run(subject: Subjects) -> None:
    raw = json.loads((subject("mixtral").directory / "config.json").read_text())
    architecture = Architecture.from_config_json({**raw, "experts_implementation": "sonicmoe"})
    assert architecture.empty_model().config._experts_implementation == "eager"
