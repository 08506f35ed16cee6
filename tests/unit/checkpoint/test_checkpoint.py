import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.checkpoint.index import INDEX_FILE, SINGLE_FILE
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.errors import Cancelled, CheckpointChanged, UnsupportedModel
from tests.waiting import until

LLAMA = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)


def save(directory: Path, config=LLAMA, dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(directory, **options)
    return model


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound single-file checkpoint; copied before it is damaged."""
    directory = tmp_path_factory.mktemp("sound")
    save(directory)
    return directory


@pytest.fixture
def damaged(sound, tmp_path):
    directory = tmp_path / "damaged"
    shutil.copytree(sound, directory)
    return directory


def expected_part(model, index):
    """The model's own weights of a part, by the names that a part uses; tied weights once."""
    prefix = "model.layers."
    tied = model.all_tied_weights_keys
    if index == 0:
        return {n: p.float() for n, p in model.named_parameters() if not n.startswith(prefix) and n not in tied}
    return {name: tensor.float() for name, tensor in model.model.layers[index - 1].state_dict().items()}


def assert_same_weights(checkpoint, model):
    for index in range(checkpoint.architecture.block_count + 1):
        tensors = checkpoint.read_part(index).tensors()
        expected = expected_part(model, index)
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shard_size", ["1GB", "12KB"])
def test_gives_back_what_save_pretrained_wrote(tmp_path, files, dtype, shard_size):
    model = save(tmp_path, dtype=dtype, max_shard_size=shard_size)
    assert (tmp_path / INDEX_FILE).exists() == (shard_size == "12KB")
    checkpoint = Checkpoint.open(files.under(tmp_path))
    assert_same_weights(checkpoint, model)
    assert checkpoint.dtypes == [{torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]]
    assert checkpoint.parameters == model.num_parameters()
    assert checkpoint.total_bytes == sum(checkpoint.part_bytes) == model.num_parameters() * dtype.itemsize


def test_tied_embeddings_need_no_head_in_the_file(tmp_path, files):
    config = LlamaConfig(**(LLAMA.to_dict() | {"tie_word_embeddings": True}))
    model = save(tmp_path, config)
    assert "lm_head.weight" not in load_file(tmp_path / SINGLE_FILE)
    checkpoint = Checkpoint.open(files.under(tmp_path))
    assert checkpoint.architecture.tied_embeddings
    assert_same_weights(checkpoint, model)
    assert checkpoint.parameters == model.num_parameters()


def test_mixed_dtypes_in_one_block(damaged, files):
    weights = load_file(damaged / SINGLE_FILE)
    for name in weights:
        if "mlp" in name:
            weights[name] = weights[name].bfloat16()
        elif "q_proj" in name:
            weights[name] = weights[name].half()
    save_file(weights, damaged / SINGLE_FILE)
    checkpoint = Checkpoint.open(files.under(damaged))
    assert checkpoint.dtypes == ["BF16", "F16", "F32"]
    tensors = checkpoint.read_part(2).tensors()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, weights[f"model.layers.1.{name}"].float())


def test_buffers_that_the_architecture_ignores_are_not_read(tmp_path, files):
    model = save(tmp_path, GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2))
    weights = load_file(tmp_path / SINGLE_FILE)
    buffers = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 16, 16).bool() for i in range(2)}
    save_file(weights | buffers, tmp_path / SINGLE_FILE)
    checkpoint = Checkpoint.open(files.under(tmp_path))
    assert checkpoint.total_bytes == 4 * model.num_parameters()
    assert checkpoint.dtypes == ["F32"]
    assert checkpoint.read_part(1).tensors().keys() == set(model.transformer.h[0].state_dict())


def test_opening_reads_no_weights_and_a_walk_reads_each_byte_once(tmp_path, files):
    save(tmp_path, max_shard_size="12KB")
    source = files.under(tmp_path)
    checkpoint = Checkpoint.open(source)
    headers = 0
    for shard in tmp_path.glob("*.safetensors"):
        with safe_open(shard, "pt") as opened:
            tensor_bytes = sum(opened.get_tensor(name).nbytes for name in opened.keys())  # noqa: SIM118
        headers += shard.stat().st_size - tensor_bytes
    at_open = checkpoint.bytes_read
    assert at_open == headers + sum((tmp_path / name).stat().st_size for name in ("config.json", INDEX_FILE))
    for part in checkpoint.read_parts(range(4)):
        assert part.data.nbytes == checkpoint.part_bytes[part.index]
    assert checkpoint.bytes_read - at_open == checkpoint.total_bytes
    assert checkpoint.bytes_read == sum(length for _, _, length in source.reads)


def test_neighbours_are_read_together(sound, files):
    source = files.under(sound)
    checkpoint = Checkpoint.open(source)
    opened = len(source.reads)
    checkpoint.read_part(1)
    assert len(source.reads) == opened + 1
    assert len(checkpoint.read_part(1).entries) == 9


def test_digests_do_not_depend_on_the_sharding(tmp_path, files):
    save(tmp_path / "whole")
    save(tmp_path / "shards", max_shard_size="12KB")
    digests = []
    for name in ("whole", "shards"):
        checkpoint = Checkpoint.open(files.under(tmp_path / name))
        digests.append(checkpoint.digest([part.sha256 for part in checkpoint.read_parts(range(4))]))
    assert digests[0] == digests[1]


def test_the_digest_holds_config_and_every_part(damaged, files):
    before = Checkpoint.open(files.under(damaged))
    parts = [part.sha256 for part in before.read_parts(range(4))]
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    after = Checkpoint.open(files.under(damaged))
    assert [part.sha256 for part in after.read_parts(range(4))] == parts
    assert after.digest(parts) != before.digest(parts)
    assert before.digest(parts[::-1]) != before.digest(parts)
    with pytest.raises(ValueError, match="4 part digests"):
        before.digest(parts[:3])


def test_nan_is_named_by_block_and_tensor(damaged, files, refused):
    weights = load_file(damaged / SINGLE_FILE)
    weights["model.layers.2.self_attn.q_proj.weight"][0, :12] = torch.nan
    save_file(weights, damaged / SINGLE_FILE)
    checkpoint = Checkpoint.open(files.under(damaged))
    checkpoint.read_part(2).tensors()
    refused(
        checkpoint.read_part(3).tensors,
        "checkpoint-not-finite",
        "block 3: self_attn.q_proj.weight has 12 NaN or Inf values",
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.float8_e4m3fn])
def test_weights_of_a_known_but_unsupported_dtype_are_named(damaged, files, refused, dtype):
    weights = load_file(damaged / SINGLE_FILE)
    weights["model.norm.weight"] = weights["model.norm.weight"].to(dtype)
    save_file(weights, damaged / SINGLE_FILE)
    error = refused(
        lambda: Checkpoint.open(files.under(damaged)), "checkpoint-dtype-unsupported", SINGLE_FILE, "model.norm.weight"
    )
    assert "bfloat16" in error.remedy


@pytest.mark.parametrize(
    ("edit", "slug", "culprit"),
    [
        pytest.param(
            lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"),
            "checkpoint-tensors-missing",
            "model.layers.1.mlp.up_proj.weight",
            id="missing",
        ),
        pytest.param(
            lambda weights: weights.update({"model.layers.3.mlp.up_proj.weight": torch.zeros(48, 32)}),
            "checkpoint-tensors-unexpected",
            "model.layers.3.mlp.up_proj.weight",
            id="left over",
        ),
        pytest.param(
            lambda weights: weights.update({"model.norm.weight": torch.zeros(31)}),
            "checkpoint-tensor-shape",
            "model.norm.weight",
            id="wrong shape",
        ),
    ],
)
def test_every_tensor_is_accounted_for(damaged, files, refused, edit, slug, culprit):
    weights = load_file(damaged / SINGLE_FILE)
    edit(weights)
    save_file(weights, damaged / SINGLE_FILE)
    refused(lambda: Checkpoint.open(files.under(damaged)), slug, culprit)


def test_an_unsupported_model_is_refused_before_its_weights_are_looked_for(files):
    source = files({"config.json": json.dumps({"model_type": "bert", "architectures": ["BertModel"]}).encode()})
    with pytest.raises(UnsupportedModel) as caught:
        Checkpoint.open(source)
    assert caught.value.slug.startswith("model-")
    assert [name for name, _, _ in source.reads] == ["config.json"]


def test_bytes_that_change_between_two_readings_end_the_audit(sound, files):
    source = files.under(sound)
    checkpoint = Checkpoint.open(source)
    first = checkpoint.read_part(1)
    assert checkpoint.read_part(1).sha256 == first.sha256
    last = bytearray(source.content[SINGLE_FILE])
    start = next(start for name, start, length in reversed(source.reads) if length == first.data.nbytes)
    last[start] ^= 1
    source.content[SINGLE_FILE] = bytes(last)
    with pytest.raises(CheckpointChanged, match="block 1"):
        checkpoint.read_part(1)
    assert checkpoint.read_part(2).index == 2


def test_the_next_part_is_read_while_the_current_is_used_and_no_further(sound, files):
    source = files.under(sound)
    checkpoint = Checkpoint.open(source)
    order = [0, 1, 2, 3, 2, 1]
    before = checkpoint.bytes_read
    parts = checkpoint.read_parts(order)
    sizes = [checkpoint.part_bytes[index] for index in order]
    for position, index in enumerate(order):
        assert next(parts).index == index
        ahead = before + sum(sizes[: position + 2])
        until(lambda ahead=ahead: checkpoint.bytes_read >= ahead, what="the next part is read ahead")
        assert checkpoint.bytes_read == ahead
    assert list(parts) == []
    assert checkpoint.bytes_read - before == sum(sizes)


def test_a_walk_that_is_left_leaves_no_thread(sound, files):
    parts = Checkpoint.open(files.under(sound)).read_parts([1, 2, 3])
    next(parts)
    parts.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prefetch", "checkpoint"))]


@pytest.mark.parametrize("using", [False, True])
def test_a_walk_that_is_given_up_does_not_wait_for_what_is_being_read(using, sound, files, monkeypatch):
    """A cancel or SIGTERM may come while gigabytes are read from a slow store, or while a part is in use."""
    stands, go, given_up = threading.Event(), threading.Event(), threading.Event()
    checkpoint = Checkpoint.open(files.under(sound))
    read_part = checkpoint.read_part

    def slow(index):
        if index == 2:
            stands.set()
            go.wait()
        return read_part(index)

    def check():
        if given_up.is_set():
            raise Cancelled("The audit was cancelled.")

    monkeypatch.setattr(checkpoint, "read_part", slow)
    parts = checkpoint.read_parts([1, 2, 3], check)
    assert next(parts).index == 1
    stands.wait()
    given_up.set()
    if using:
        parts.close()
    else:
        with pytest.raises(Cancelled):
            next(parts)
    go.set()
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("prefetch")], what="the thread has ended")


def test_an_error_while_prefetching_reaches_the_walk(sound, files):
    source = files.under(sound)
    checkpoint = Checkpoint.open(source)
    parts = checkpoint.read_parts([1, 2, 3])
    assert next(parts).index == 1
    source.content.clear()
    with pytest.raises(KeyError):
        list(parts)


def test_an_empty_walk_and_a_walk_of_one(sound, files):
    checkpoint = Checkpoint.open(files.under(sound))
    assert list(checkpoint.read_parts([])) == []
    assert [part.index for part in checkpoint.read_parts([3])] == [3]


def test_the_tokenizer_is_given_as_it_is_and_bounded(damaged, files, refused):
    assert Checkpoint.open(files.under(damaged)).tokenizer_json() is None
    (damaged / "tokenizer.json").write_bytes(b'{"version": "1.0"}')
    assert Checkpoint.open(files.under(damaged)).tokenizer_json() == b'{"version": "1.0"}'
    bounded = Checkpoint.open(files.under(damaged), Limits(tokenizer_bytes=5))
    refused(bounded.tokenizer_json, "checkpoint-tokenizer-too-large", "tokenizer.json", "18")


def test_one_tensor_of_a_part_is_read_alone(sound, files):
    source = files.under(sound)
    checkpoint = Checkpoint.open(source)
    whole, before = checkpoint.read_part(2).tensors(), checkpoint.bytes_read
    for name, tensor in whole.items():
        part = checkpoint.read_tensor(2, name)
        assert part.tensors().keys() == {name}
        assert torch.equal(part.tensors()[name], tensor)
    assert checkpoint.bytes_read - before == checkpoint.part_bytes[2]
