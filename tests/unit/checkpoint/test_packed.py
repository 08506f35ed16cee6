"""Packed checkpoints: a tiny model in each layout gives the weights, and the loss, of its dequantised copy."""

import json
from functools import partial
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file

from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.checkpoint.index import SINGLE_FILE
from peelbound.workers.errors import UnsupportedModel
from peelbound.workers.quantisers.scheme import Scheme
from tests import packers
from tests.tiny_models import random_model, tiny_config
from tests.unit.checkpoint.losses import audited_loss, library_loss

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
ORDER = torch.randperm(64, generator=torch.Generator().manual_seed(3))
INTEGERS = {"bits": 4, "group_size": 32, "sym": False}


def in_order(pack, weight, **options):
    """Only maps from 64 channels are ordered by activation: one order serves them all."""
    return pack(weight, order=ORDER if weight.shape[1] == 64 else None, **options)


def groups(**weights):
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def compressed(form, **weights):
    return {"quant_method": "compressed-tensors", "format": form, **groups(**weights)}


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
CASES = {
    "bitnet": (
        {"quant_method": "bitnet"},
        partial(packers.bitnet, divides=True),
        Scheme("ternary", activation_bits=8),
    ),
    "bitnet, scales multiply": (
        {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
        partial(packers.bitnet, divides=False),
        Scheme("ternary", activation_bits=8),
    ),
    "gptq": (
        {"quant_method": "gptq", **INTEGERS},
        partial(packers.gptq, bits=4, group=32, lowered=True),
        Scheme("int", 4, 32),
    ),
    "gptq, version 2": (
        {"quant_method": "gptq", "checkpoint_format": "gptq_v2", **INTEGERS},
        partial(packers.gptq, bits=4, group=32, lowered=False),
        Scheme("int", 4, 32),
    ),
    "gptq, ordered by activation": (
        {"quant_method": "gptq", "desc_act": True, **INTEGERS},
        partial(in_order, packers.gptq, bits=4, group=32, lowered=True),
        Scheme("int", 4, 32),
    ),
    "gptq, 3 bits": (
        {"quant_method": "gptq", **INTEGERS, "bits": 3},
        partial(packers.gptq, bits=3, group=32, lowered=True),
        Scheme("int", 3, 32),
    ),
    "gptq, 2 bits": (
        {"quant_method": "gptq", **INTEGERS, "bits": 2},
        partial(packers.gptq, bits=2, group=32, lowered=True),
        Scheme("int", 2, 32),
    ),
    "gptq, 8 bits": (
        {"quant_method": "gptq", **INTEGERS, "bits": 8},
        partial(packers.gptq, bits=8, group=32, lowered=True),
        Scheme("int", 8, 32),
    ),
    "awq": (
        {"quant_method": "awq", "version": "gemm", **INTEGERS},
        partial(packers.awq, group=32),
        Scheme("int", 4, 32),
    ),
    "auto-round": (
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", **INTEGERS},
        partial(packers.gptq, bits=4, group=32, lowered=True),
        Scheme("int", 4, 32),
    ),
    "auto-round, zeros as they are": (
        {"quant_method": "auto-round", "packing_format": "auto_round", **INTEGERS},
        partial(packers.gptq, bits=4, group=32, lowered=False),
        Scheme("int", 4, 32),
    ),
    "auto-round as awq": (
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", **INTEGERS},
        partial(packers.awq, group=32),
        Scheme("int", 4, 32),
    ),
    "compressed, int4": (
        compressed("pack-quantized", **INT4),
        partial(packers.compressed_packed, bits=4, group=32),
        Scheme("int", 4, 32),
    ),
    "compressed, 3 bits": (
        compressed("pack-quantized", **{**INT4, "num_bits": 3}),
        partial(packers.compressed_packed, bits=3, group=32),
        Scheme("int", 3, 32),
    ),
    "compressed, zero points": (
        compressed("pack-quantized", **INT4, symmetric=False),
        partial(packers.compressed_packed, bits=4, group=32, symmetric=False),
        Scheme("int", 4, 32),
    ),
    "compressed, ordered by activation": (
        compressed("pack-quantized", **INT4, actorder="group"),
        partial(in_order, packers.compressed_packed, bits=4, group=32),
        Scheme("int", 4, 32),
    ),
    "compressed, int8": (
        compressed("int-quantized", num_bits=8, type="int", strategy="channel"),
        packers.compressed_whole,
        Scheme("int", 8),
    ),
    "compressed, fp8": (
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        packers.fp8_channels,
        None,
    ),
    "compressed, fp8 in tiles": (
        compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[40, 40]),
        partial(packers.fp8_tiles, tile=40, scale="weight_scale"),
        None,
    ),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [40, 40]}, partial(packers.fp8_tiles, tile=40), None),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, packers.fp8_channels, None),
}


def write(directory, settings, pack):
    """A packed checkpoint and its dequantised copy: two directories."""
    model = random_model("llama", **SIZES)
    packed, dense = {}, {}
    for name, weight in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module.endswith("_proj") and kind == "weight":
            tensors, dense[name] = pack(weight)
            packed |= {f"{module}.{key}": tensor.contiguous() for key, tensor in tensors.items()}
        else:
            packed[name] = dense[name] = weight
    config = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    for path, tensors, more in (("packed", packed, {"quantization_config": settings}), ("dense", dense, {})):
        (directory / path).mkdir()
        (directory / path / "config.json").write_text(json.dumps(config | more))
        save_file({k: t.contiguous() for k, t in tensors.items()}, directory / path / SINGLE_FILE, {"format": "pt"})
    return directory / "packed", directory / "dense"


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """Packed directory, dense directory, the scheme that is expected."""
    settings, pack, scheme = CASES[request.param]
    return *write(tmp_path_factory.mktemp("packed"), settings, pack), scheme


def test_weights_and_loss_are_those_of_the_dequantised_copy(case, files):
    packed, dense, scheme = case
    checkpoint, copy = Checkpoint.open(files.under(packed)), Checkpoint.open(files.under(dense))
    for index in range(3):
        tensors, expected = checkpoint.read_part(index).tensors(), copy.read_part(index).tensors()
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-8)
    loss = audited_loss(checkpoint)
    assert loss == pytest.approx(audited_loss(copy), abs=1e-6)
    assert loss == pytest.approx(library_loss(dense, copy), abs=1e-5)
    assert checkpoint.encoding.packed
    assert checkpoint.encoding.scheme == scheme
    assert not copy.encoding.packed
    assert checkpoint.parameters == copy.parameters


def test_weights_lie_on_their_own_grids_bit_by_bit(case, files):
    packed, _, scheme = case
    part = Checkpoint.open(files.under(packed)).read_part(1)
    tensors, grids = part.tensors(), part.grids()
    assert grids.keys() == ({name for name in tensors if "proj" in name} if scheme else set())
    for name, grid in grids.items():
        assert torch.equal(grid.quantise(tensors[name]), tensors[name]), name
        noised = tensors[name] + 0.2 * grid.scale.abs().min() * torch.randn_like(tensors[name]).clamp(-2, 2)
        assert torch.equal(grid.quantise(noised), tensors[name]), f"{name} is not in the middle of its codes"


def test_each_byte_is_read_once_and_decoded_from_the_part_alone(case, files):
    source = files.under(case[0])
    checkpoint = Checkpoint.open(source)
    before = checkpoint.bytes_read
    source.reads.clear()
    for part in checkpoint.read_parts([0, 1, 2]):
        part.tensors()
        part.grids()
    spans = sorted((start, start + length) for _, start, length in source.reads)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert sum(end - start for start, end in spans) == checkpoint.bytes_read - before == checkpoint.total_bytes


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # importing the library's module compiles functions
def test_ternaries_are_packed_as_the_library_packs_them(tmp_path, files):
    from transformers.integrations.bitnet import pack_weights

    def pack(weight):
        codes = torch.randint(-1, 2, weight.shape, generator=torch.Generator().manual_seed(weight.shape[0]))
        return {"weight": pack_weights(codes.clone()), "weight_scale": torch.tensor([4.0])}, codes / 4

    packed, dense = write(tmp_path, {"quant_method": "bitnet"}, pack)
    tensors = Checkpoint.open(files.under(packed)).read_part(2).tensors()
    expected = Checkpoint.open(files.under(dense)).read_part(2).tensors()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_latent_weights_of_bitnet_are_told_from_packed_ones(tmp_path, files):
    settings = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    latent, _ = write(tmp_path, settings, lambda weight: ({"weight": weight}, weight))
    encoding = Checkpoint.open(files.under(latent)).encoding
    assert encoding.scheme == Scheme("ternary", activation_bits=8)
    assert not encoding.packed
    assert "Latent" in encoding.detail


@pytest.mark.parametrize(
    ("inputs", "scheme"),
    [
        ({"dynamic": True, "strategy": "token"}, "int8+a8"),
        ({"dynamic": True, "strategy": "token", "symmetric": False}, "int8"),
        ({"dynamic": False, "strategy": "tensor"}, "int8"),
        ({"dynamic": True, "strategy": "token", "num_bits": 4}, "int8"),
        ({"dynamic": True, "strategy": "token", "type": "float"}, "int8"),
    ],
    ids=str,
)
def test_activations_are_rounded_as_in_use_or_it_is_said_that_they_are_not(tmp_path, files, inputs, scheme):
    settings = compressed("int-quantized", num_bits=8, type="int", strategy="channel")
    settings["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "type": "int", **inputs}
    packed, _ = write(tmp_path, settings, packers.compressed_whole)
    encoding = Checkpoint.open(files.under(packed)).encoding
    assert str(encoding.scheme) == scheme
    assert ("activations" in encoding.detail) == (scheme == "int8")


def test_a_format_of_gptq_is_taken_by_either_of_its_names(tmp_path, files):
    packed, dense = write(
        tmp_path,
        {"quant_method": "gptq", "format": "GPTQ_v2", **INTEGERS},
        partial(packers.gptq, bits=4, group=32, lowered=False),
    )
    tensors = Checkpoint.open(files.under(packed)).read_part(1).tensors()
    expected = Checkpoint.open(files.under(dense)).read_part(1).tensors()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("kept", "refused_with"),
    [
        (["lm_head"], None),
        (["lm_head", "down_proj"], "layers.0.mlp.down_proj"),
        (["model.layers.1"], "layers.1."),
        (["(a+)+$"], "plain names"),
        ("lm_head", "plain names"),
    ],
    ids=str,
)
def test_maps_that_bitnet_left_in_full_precision_are_not_taken_for_ternaries(
    tmp_path, files, refused, kept, refused_with
):
    settings = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    latent, _ = write(
        tmp_path, settings | {"modules_to_not_convert": kept}, lambda weight: ({"weight": weight}, weight)
    )
    if refused_with is None:
        assert Checkpoint.open(files.under(latent)).encoding.scheme == Scheme("ternary", activation_bits=8)
    else:
        refused(lambda: Checkpoint.open(files.under(latent)), "model-quantised", refused_with)


def test_scales_of_activations_and_of_the_cache_are_not_read(tmp_path, files):
    packed, _ = write(tmp_path, compressed("float-quantized", num_bits=8, type="float"), packers.fp8_channels)
    before = Checkpoint.open(files.under(packed))
    weights = load_file(packed / SINGLE_FILE)
    weights["model.layers.0.self_attn.q_proj.input_scale"] = torch.ones(1)
    weights["model.layers.0.self_attn.k_scale"] = torch.ones(1)
    save_file(weights, packed / SINGLE_FILE)
    after = Checkpoint.open(files.under(packed))
    assert after.total_bytes == before.total_bytes
    assert after.read_part(1).sha256 == before.read_part(1).sha256


def test_settings_that_change_the_weights_change_the_digest(tmp_path, files):
    digests = set()
    for form in ("gptq", "gptq_v2"):
        (tmp_path / form).mkdir()
        settings = {"quant_method": "gptq", "checkpoint_format": form, **INTEGERS}
        packed, _ = write(tmp_path / form, settings, partial(packers.gptq, bits=4, group=32, lowered=True))
        digests.add(Checkpoint.open(files.under(packed)).read_part(1).sha256)
    assert len(digests) == 2


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gptq(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gptq"), *CASES["gptq"][:2])[0]


def changed(source, **changes):
    """The files with the settings changed, or a tensor of the first block's q_proj."""
    config = json.loads(source.content["config.json"])
    tensors = {key.removeprefix("tensor_"): value for key, value in changes.items() if key.startswith("tensor_")}
    config["quantization_config"] |= {k: v for k, v in changes.items() if not k.startswith("tensor_")}
    source.content["config.json"] = json.dumps(config).encode()
    if tensors:
        weights = load(source.content[SINGLE_FILE])
        for key, change in tensors.items():
            name = f"model.layers.0.self_attn.q_proj.{key}"
            weights[name] = change(weights[name])
        weights = {name: tensor.contiguous() for name, tensor in weights.items() if tensor is not None}
        source.content[SINGLE_FILE] = save(weights)
    return source


def named(value: object) -> str:
    """The name of a parameter, the same in every process: a function would show its address."""
    if isinstance(value, dict):
        return ",".join(key if callable(change) else f"{key}={change}" for key, change in value.items())
    return str(value)


@pytest.mark.parametrize(
    ("changes", "slug", "culprit"),
    [
        ({"bits": 8}, "checkpoint-group-size", "Groups of 32 do not divide"),
        ({"bits": 5}, "model-quantised", "bits = 5"),
        ({"bits": True}, "model-quantised", "bits = True"),
        ({"group_size": 40}, "checkpoint-group-size", "Groups of 40 do not divide the 96 input channels"),
        ({"group_size": 16}, "checkpoint-packed-shape", "qzeros"),
        ({"group_size": 0}, "checkpoint-config-invalid", "group_size is 0"),
        ({"group_size": "32"}, "checkpoint-config-invalid", "group_size"),
        ({"checkpoint_format": "marlin"}, "model-quantised", "'marlin'"),
        ({"format": ["gptq"]}, "model-quantised", "['gptq']"),
        ({"quant_method": "auto-round", "packing_format": ["x"]}, "model-quantised", "packing_format"),
        ({"quant_method": "auto-round", "extra_config": ["x"]}, "model-quantised", "extra_config"),
        ({"dynamic": {"x": {"bits": 8}}}, "model-quantised", "dynamic"),
        ({"quant_method": "hqq"}, "model-quantised", "'hqq'"),
        ({"quant_method": None}, "model-quantised", "None"),
        ({"quant_method": "fp8"}, "checkpoint-packed-incomplete", "no weight of the files is packed"),
        ({"quant_method": "awq"}, "checkpoint-group-size", "input channels of model.layers.0"),
        ({"tensor_scales": lambda t: t[:1]}, "checkpoint-packed-shape", "q_proj.scales has shape [1, 64]"),
        ({"tensor_qweight": lambda t: t[:, :32]}, "checkpoint-packed-shape", "q_proj"),
        ({"tensor_qweight": lambda t: t.reshape(-1)}, "checkpoint-packed-shape", "a matrix is needed"),
        ({"tensor_qweight": lambda t: t.short()}, "checkpoint-dtype-unsupported", "I16"),
        ({"tensor_g_idx": lambda t: t[:10]}, "checkpoint-packed-shape", "g_idx"),
        ({"tensor_qzeros": lambda t: None}, "checkpoint-packed-incomplete", "q_proj lacks its qzeros"),
    ],
    ids=named,
)
def test_settings_and_tensors_that_do_not_fit_are_refused_at_the_start(gptq, files, refused, changes, slug, culprit):
    error = refused(lambda: Checkpoint.open(changed(files.under(gptq), **changes)), slug, culprit)
    assert isinstance(error, UnsupportedModel) == (slug == "model-quantised")


@pytest.mark.parametrize(
    ("changes", "slug", "culprit"),
    [
        ({"tensor_scales": lambda t: t * torch.nan}, "checkpoint-not-finite", "q_proj.weight:scales has 128 NaN"),
        ({"tensor_g_idx": lambda t: t + 1}, "checkpoint-packed-index", "from 1 to 2, but it has 2"),
        ({"tensor_g_idx": lambda t: t - 1}, "checkpoint-packed-index", "from -1 to 0"),
    ],
    ids=named,
)
def test_bytes_that_stand_for_no_weights_are_named_by_block_and_tensor(gptq, files, refused, changes, slug, culprit):
    part = Checkpoint.open(changed(files.under(gptq), **changes)).read_part(1)
    error = refused(part.tensors, slug, "block 1: self_attn.q_proj.weight", culprit)
    assert error.extra["part"] == 1


def test_scales_that_are_not_finite_are_named_in_every_format(case, files, refused):
    packed, _, _ = case
    source = files.under(packed)
    weights = load(source.content[SINGLE_FILE])
    prefix = "model.layers.1.mlp.up_proj."
    (scale,) = (name for name in weights if name.startswith(prefix) and "scale" in name)
    weights[scale] = torch.full_like(weights[scale], torch.inf)
    source.content[SINGLE_FILE] = save(weights)
    part = Checkpoint.open(source).read_part(2)
    error = refused(part.tensors, "checkpoint-not-finite", "block 2: mlp.up_proj.weight")
    assert error.extra["part"] == 2


def test_a_ternary_that_is_none_is_refused(tmp_path, files, refused):
    packed, _ = write(tmp_path, *CASES["bitnet"][:2])
    source = changed(files.under(packed), tensor_weight=lambda t: t.fill_(0b11))
    refused(Checkpoint.open(source).read_part(1).tensors, "checkpoint-packed-code", "q_proj", "1,024")


def test_a_shape_that_contradicts_the_codes_is_refused(tmp_path, files, refused):
    packed, _ = write(tmp_path, *CASES["compressed, int4"][:2])
    source = changed(files.under(packed), tensor_weight_shape=lambda t: t * 2)
    refused(Checkpoint.open(source).read_part(1).tensors, "checkpoint-packed-shape", "q_proj", "[128, 128]")


def test_packed_maps_that_keep_their_weights_transposed_are_refused(gptq, files, refused):
    source = files.under(gptq)
    config = tiny_config("gpt2") | {"quantization_config": CASES["gptq"][0]}
    source.content["config.json"] = json.dumps(config).encode()
    refused(lambda: Checkpoint.open(source), "model-quantised", "GPT2LMHeadModel", "transposed")


def test_packed_and_full_weights_of_one_map_are_refused(gptq, files, refused):
    source = files.under(gptq)
    weights = load(source.content[SINGLE_FILE]) | {"model.layers.0.self_attn.q_proj.weight": torch.zeros(64, 64)}
    source.content[SINGLE_FILE] = save(weights)
    refused(lambda: Checkpoint.open(source), "checkpoint-tensors-duplicate", "q_proj.weight")


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ("gptq", "'gptq'"),
        ({"quant_method": "bitnet", "use_rms_norm": True}, "use_rms_norm"),
        ({"quant_method": "bitnet", "linear_class": "x"}, "'x'"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "'gemv'"),
        ({"quant_method": "awq", "bits": 3}, "bits = 3"),
        ({"quant_method": "auto-round", "data_type": "mx_fp"}, "'mx_fp'"),
        ({"quant_method": "auto-round", "packing_format": "mlx"}, "'mlx'"),
        ({"quant_method": "auto-round", **INTEGERS, "extra_config": {"a": {"bits": 8}}}, "'a'"),
        (compressed("marlin-24"), "'marlin-24'"),
        (compressed("pack-quantized", **INT4) | {"transform_config": {"config_groups": {}}}, "transforms"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "config_groups"),
        (compressed("pack-quantized", num_bits=4, strategy="block"), "'block'"),
        (compressed("pack-quantized", num_bits=9), "num_bits = 9"),
    ],
    ids=str,
)
def test_layouts_that_are_not_read_are_refused_by_name(gptq, files, refused, settings, culprit):
    source = files.under(gptq)
    config = json.loads(source.content["config.json"]) | {"quantization_config": settings}
    source.content["config.json"] = json.dumps(config).encode()
    error = refused(lambda: Checkpoint.open(source), "model-quantised", culprit)
    assert isinstance(error, UnsupportedModel)
