"""GGUF files: the library's own model and gguf-py's own writer and reader say what must come out."""

import json
import struct
import tracemalloc
from itertools import pairwise

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.checkpoint.decoders import RawTensor
from peelbound.workers.checkpoint.gguf.config import config_of
from peelbound.workers.checkpoint.gguf.decoder import Gguf, dequantised
from peelbound.workers.checkpoint.gguf.header import GgufHeader, Skipped, read_header
from peelbound.workers.checkpoint.header import StoredTensor
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.errors import CheckpointError, UnsupportedModel
from tests.gguf_files import ARCHITECTURES, some_tokens, write_gguf
from tests.tiny_models import random_model, tiny_config
from tests.unit.checkpoint.losses import audited_loss, ids_of, library_loss

FILE = "model.gguf"
WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
_OWN = {
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3_text": {"layer_types": None, "query_pre_attn_scalar": 8},
    "qwen3": {"head_dim": 16},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [],
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_architecture_comes_out_as_the_model_that_was_written(tmp_path, files, family):
    model = random_model(family, **_OWN.get(family, {}))
    write_gguf(tmp_path / FILE, model)
    checkpoint = Checkpoint.open(files.under(tmp_path))
    ids = ids_of(checkpoint)
    with torch.no_grad():
        expected = float(model(input_ids=ids, labels=ids).loss)
    assert audited_loss(checkpoint) == pytest.approx(expected, abs=3e-6)
    assert checkpoint.parameters == model.num_parameters()
    assert not checkpoint.encoding.packed
    assert checkpoint.encoding.method == "gguf"


def test_a_window_of_zero_is_none(tmp_path, files):
    write_gguf(tmp_path / FILE, random_model("phi3"), sliding_window=0)
    assert Checkpoint.open(files.under(tmp_path)).config["sliding_window"] is None


@pytest.mark.parametrize(
    ("architecture", "blocks", "scaled_by"),
    [("gemma2", 26, 256), ("gemma2", 42, 256), ("gemma2", 46, 144), ("gemma3", 48, 256), ("gemma3", 62, 144)],
)
def test_attention_is_scaled_as_llama_cpp_does_by_the_number_of_blocks(architecture, blocks, scaled_by):
    own = {"block_count": blocks, "embedding_length": 4608, "attention.head_count": 32, "attention.key_length": 256}
    metadata = {f"{architecture}.{key}": value for key, value in own.items()} | {"general.architecture": architecture}
    embedding = StoredTensor("token_embd.weight", FILE, "F32", (96, 4608), 0, 0)
    assert config_of(GgufHeader(FILE, metadata, (embedding,)))["query_pre_attn_scalar"] == scaled_by


def test_a_gate_of_the_shared_expert_is_read_as_a_row_or_as_a_matrix(tmp_path, files):
    model = random_model("qwen2_moe", **_OWN["qwen2_moe"])
    losses = []
    for name, shape in (("row", (-1,)), ("matrix", (1, -1))):
        (tmp_path / name).mkdir()
        write_gguf(tmp_path / name / FILE, model, shared_gate=shape)
        losses.append(audited_loss(Checkpoint.open(files.under(tmp_path / name))))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantised_files_come_out_as_the_library_loads_them(tmp_path, files, kind):
    model = random_model("llama", **WIDE)
    write_gguf(tmp_path / FILE, model, kind, tokenizer=some_tokens())
    checkpoint = Checkpoint.open(files.under(tmp_path))
    assert audited_loss(checkpoint) == pytest.approx(library_loss(tmp_path, checkpoint, gguf_file=FILE), abs=1e-6)
    assert checkpoint.encoding.packed
    assert str(checkpoint.encoding.scheme) == kind.lower()
    assert kind in checkpoint.encoding.detail
    assert checkpoint.dtypes == ["F32", kind]
    part = checkpoint.read_part(1)
    tensors, grids = part.tensors(), part.grids()
    assert grids.keys() == {name for name in tensors if "proj" in name}
    for name, grid in grids.items():
        assert torch.equal(grid.quantise(tensors[name]), tensors[name]), name


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_ternary_files_are_told_as_such(tmp_path, files, kind):
    model = random_model("qwen2", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    write_gguf(tmp_path / FILE, model, kind)
    checkpoint = Checkpoint.open(files.under(tmp_path))
    assert str(checkpoint.encoding.scheme) == "ternary-g256"
    tensors, grids = checkpoint.read_part(1).tensors(), checkpoint.read_part(1).grids()
    assert len(grids) == 7
    for name, grid in grids.items():
        assert grid.levels == 3
        assert torch.equal(grid.quantise(tensors[name]), tensors[name]), name


def random_blocks(kind, rows=8, blocks=4):
    """Blocks of random bytes whose scales are of a size that scales have; each 16 bits are tried for one."""
    size = GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    generator = np.random.default_rng(0)
    found = []
    while len(found) < rows * blocks:
        raw = generator.integers(0, 256, (1, size), dtype=np.uint8)
        with np.errstate(all="ignore"):
            values = gguf.dequantize(raw, gguf.GGMLQuantizationType[kind])
        if np.isfinite(values).all() and 1e-3 < np.abs(values).max() < 10:
            found.append(raw)
    return np.concatenate(found).reshape(rows, -1)


GRIDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
OTHERS = ("IQ4_NL", "IQ4_XS", "IQ2_XXS", "MXFP4")


@pytest.mark.parametrize("kind", GRIDS + OTHERS)
def test_any_block_is_dequantised_as_the_package_does_and_lies_on_its_grid(kind):
    raw = random_blocks(kind)
    number = gguf.GGMLQuantizationType[kind]
    expected = torch.from_numpy(gguf.dequantize(raw, number))
    stored = RawTensor(kind, tuple(expected.shape), raw.reshape(-1))
    decoder = Gguf("qwen2", "ffn_up.weight", (4, 2), 64)
    values = decoder.decode([stored])
    # Values with an offset are rounded once more.
    torch.testing.assert_close(values, expected, rtol=0, atol=4e-7 * float(expected.abs().max()))
    grid = decoder.grid([stored])
    assert (grid is None) == (kind in OTHERS)
    if grid is not None:
        assert torch.equal(grid.quantise(values), values)


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "BF16"])
def test_however_many_blocks_there_are_each_is_dequantised_in_its_place(kind):
    number = gguf.GGMLQuantizationType[kind]
    size = GGML_QUANT_SIZES[number][1]
    blocks = np.tile(random_blocks(kind, 1, 7).reshape(7, size), (293, 1))
    assert len(blocks) > 2048  # two whole rows, and a rest
    assert len(blocks) % 1024
    one_by_one = np.concatenate([gguf.dequantize(block[None], number)[0] for block in blocks])
    assert np.array_equal(dequantised(RawTensor(kind, one_by_one.shape, blocks.reshape(-1))), one_by_one)


def test_rows_of_heads_and_their_grid_are_put_in_the_library_s_order():
    raw = random_blocks("Q4_0", rows=16, blocks=2)
    stored = RawTensor("Q4_0", (16, 64), raw.reshape(-1))
    plain, turned = (Gguf(a, "attn_q.weight", (4, 2), 64) for a in ("qwen2", "llama"))
    order = torch.arange(16).reshape(4, 2, 2).transpose(1, 2).flatten()
    assert torch.equal(turned.decode([stored]), plain.decode([stored])[order])
    assert torch.equal(turned.grid([stored]).scale, plain.grid([stored]).scale[order])


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a sound file."""
    path = tmp_path_factory.mktemp("gguf") / FILE
    write_gguf(path, random_model("llama"), "Q4_0", tokenizer=some_tokens())
    return path.read_bytes()


def test_each_byte_of_the_weights_is_read_once(sound, files):
    source = files({FILE: sound})
    checkpoint = Checkpoint.open(source)
    opened = checkpoint.bytes_read
    assert opened == min(len(sound), 256 << 10)  # the header, and what one read fetches beyond it
    source.reads.clear()
    for part in checkpoint.read_parts([0, 1, 2, 3]):
        part.tensors()
    spans = sorted((start, start + length) for _, start, length in source.reads)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert checkpoint.bytes_read - opened == checkpoint.total_bytes == sum(end - start for start, end in spans)


def test_the_tokenizer_is_made_of_the_metadata(sound, files):
    content = Checkpoint.open(files({FILE: sound})).tokenizer_json()
    tokens = some_tokens()["tokens"]
    assert content is not None
    encoding = Tokenizer.from_str(content.decode()).encode("the the<|end|>th!")
    assert [tokens[i] for i in encoding.ids] == ["the", "Ġthe", "<|end|>", "th", "!"]


def test_a_tokenizer_beside_the_file_is_taken_first(sound, files):
    assert Checkpoint.open(files({FILE: sound, "tokenizer.json": b"{}"})).tokenizer_json() == b"{}"


def test_a_file_without_tokens_has_no_tokenizer(tmp_path, files):
    write_gguf(tmp_path / FILE, random_model("llama"))
    assert Checkpoint.open(files.under(tmp_path)).tokenizer_json() is None


def test_a_tokenizer_that_the_library_does_not_know_is_refused(sound, files, refused):
    source = files({FILE: sound.replace(b"gpt2", b"gptX", 1)})
    checkpoint = Checkpoint.open(source)
    refused(checkpoint.tokenizer_json, "checkpoint-gguf-tokenizer", "gptX")


def test_a_config_beside_the_file_is_taken_first(tmp_path, files):
    model = random_model("llama")
    write_gguf(tmp_path / FILE, model, metadata={"llama.rope.scaling.type": "yarn"})
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("llama")))
    checkpoint = Checkpoint.open(files.under(tmp_path))
    ids = ids_of(checkpoint)
    with torch.no_grad():
        assert audited_loss(checkpoint) == pytest.approx(float(model(input_ids=ids, labels=ids).loss), abs=3e-6)


def test_safetensors_beside_it_are_taken_first(tmp_path, files, sound):
    random_model("qwen2").save_pretrained(tmp_path)
    (tmp_path / FILE).write_bytes(sound)
    checkpoint = Checkpoint.open(files.under(tmp_path))
    assert checkpoint.architecture.model_type == "qwen2"
    assert checkpoint.tokenizer_json() is None


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused(sound, files, refused):
    # The last tensor may end before the file's padding does.
    for length in [*range(0, 400, 7), *range(400, len(sound) - 64, 1009)]:
        error = refused(lambda n=length: Checkpoint.open(files({FILE: sound[:n]})), "checkpoint-truncated", "truncated")
        assert error.extra["actual_bytes"] == length


@pytest.mark.parametrize("place", [8, 16])
@pytest.mark.parametrize("count", [2**63, 2**40, 10**6])
def test_hostile_counts_are_refused_in_bounded_memory(sound, files, refused, place, count):
    content = sound[:place] + struct.pack("<Q", count) + sound[place + 8 :]
    source = files({FILE: content})
    tracemalloc.start()
    refused(lambda: Checkpoint.open(source), "checkpoint-header-invalid", f"{count:,}")
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def value_of(key, kind, value):
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def file_of(values=(), tensors=(), data=b""):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join(values) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def tensor_of(name=b"t", dims=(32,), kind=0, offset=0):
    return struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize(
    ("content", "slug", "culprit"),
    [
        (b"GGML" + bytes(40), "checkpoint-header-invalid", "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "model-gguf-version", "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "model-gguf-version", "little-endian"),
        (file_of([value_of(b"k", 8, struct.pack("<Q", 2**62))]), "checkpoint-truncated", ""),
        (file_of([struct.pack("<Q", 2**62)]), "checkpoint-header-invalid", "a name has"),
        (file_of([value_of(b"k", 13, b"")]), "checkpoint-header-invalid", "type 13"),
        (file_of([value_of(b"k", 9, struct.pack("<IQ", 4, 2**62))]), "checkpoint-truncated", ""),
        (file_of([value_of(b"k", 9, struct.pack("<IQ", 8, 2**60))]), "checkpoint-truncated", ""),
        (file_of([value_of(b"k", 9, struct.pack("<IQ", 9, 1))]), "checkpoint-header-invalid", "items of type 9"),
        (file_of([value_of(b"k", 8, struct.pack("<Q", 1) + b"\xff")]), "checkpoint-header-invalid", "UTF-8"),
        (file_of([value_of(b"k", 0, b"1")] * 2), "checkpoint-header-invalid", "'k' occurs twice"),
        (file_of([value_of(b"general.alignment", 4, struct.pack("<I", 3))]), "checkpoint-header-invalid", "is 3"),
        (file_of([value_of(b"general.alignment", 4, bytes(4))]), "checkpoint-header-invalid", "is 0"),
        (file_of(tensors=[tensor_of(dims=(1,) * 9)]), "checkpoint-header-invalid", "9 dimensions"),
        (file_of(tensors=[tensor_of(dims=(2**62, 2**62))]), "checkpoint-header-invalid", "shape"),
        (file_of(tensors=[tensor_of(offset=8)]), "checkpoint-header-invalid", "lies at 8"),
        (file_of(tensors=[tensor_of()] * 2, data=bytes(128)), "checkpoint-header-invalid", "'t' occurs twice"),
        (file_of(tensors=[tensor_of(), tensor_of(b"u")], data=bytes(128)), "checkpoint-header-invalid", "overlap"),
        (file_of(tensors=[tensor_of()], data=bytes(127)), "checkpoint-truncated", ""),
        (file_of(tensors=[tensor_of(dims=(33,), kind=2)]), "checkpoint-group-size", "Q4_0 packs 32"),
        (file_of(tensors=[tensor_of(kind=999)]), "checkpoint-gguf-type", "number 999"),
        (file_of(tensors=[tensor_of(dims=(256,), kind=15)]), "checkpoint-gguf-type", "Q8_K"),
        (file_of(tensors=[tensor_of(kind=26)]), "checkpoint-gguf-type", "I32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_headers_that_break_the_format_are_refused_by_name(files, refused, content, slug, culprit):
    refused(lambda: read_header(Reader(files({FILE: content})), FILE, Limits()), slug, culprit, FILE)


def test_a_header_that_is_too_large_is_refused(sound, files, refused):
    reader = Reader(files({FILE: sound}))
    refused(lambda: read_header(reader, FILE, Limits(gguf_header_bytes=200)), "checkpoint-header-too-large", "200")


def test_an_unknown_architecture_is_refused_by_name(sound, files, refused):
    for name in (b"rwkv6", b"whatX"):
        content = sound.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0" + name, 1)
        error = refused(lambda c=content: Checkpoint.open(files({FILE: c})), "model-gguf-architecture", name.decode())
        assert isinstance(error, UnsupportedModel)


@pytest.mark.parametrize(
    ("metadata", "slug", "culprit"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "model-gguf-rotary", "stretches"),
        ({"llama.expert_count": "8"}, "model-gguf-architecture", "mixture of experts"),
        ({"split.count": "3"}, "checkpoint-shard-missing", "parts"),
    ],
)
def test_what_the_metadata_cannot_say_is_refused(tmp_path, files, refused, metadata, slug, culprit):
    write_gguf(tmp_path / FILE, random_model("llama"), metadata=metadata)
    refused(lambda: Checkpoint.open(files.under(tmp_path)), slug, culprit)


@pytest.mark.parametrize("token", [[1, 2], Skipped(5000), "</s>", True], ids=str)
def test_a_token_that_is_no_number_is_refused(refused, token):
    metadata = {"general.architecture": "llama", "tokenizer.ggml.eos_token_id": token}
    embedding = StoredTensor("token_embd.weight", FILE, "F32", (96, 32), 0, 0)
    refused(lambda: config_of(GgufHeader(FILE, metadata, (embedding,))), "checkpoint-header-invalid", "eos_token_id")


@pytest.mark.parametrize("rotated", [0, 9, 64])
def test_more_channels_than_a_head_has_are_not_rotated(refused, rotated):
    own = {"embedding_length": 32, "attention.head_count": 4, "rope.dimension_count": rotated}
    metadata = {"general.architecture": "phi3"} | {f"phi3.{key}": value for key, value in own.items()}
    embedding = StoredTensor("token_embd.weight", FILE, "F32", (96, 32), 0, 0)
    refused(lambda: config_of(GgufHeader(FILE, metadata, (embedding,))), "checkpoint-header-invalid", str(rotated))


def test_settings_that_do_not_fit_the_tensors_are_refused(sound, files, refused):
    wider = sound.replace(struct.pack("<I", 64), struct.pack("<I", 96), 1)  # the feed-forward layer's width
    assert wider != sound
    refused(lambda: Checkpoint.open(files({FILE: wider})), "checkpoint-tensor-shape", "96")


def test_several_files_are_refused(sound, files, refused):
    source = files({"a.gguf": sound, "b.gguf": sound})
    refused(lambda: Checkpoint.open(source), "checkpoint-several-files", "a.gguf", "b.gguf")


def test_a_scale_that_is_not_finite_is_named(tmp_path, files, refused):
    write_gguf(tmp_path / FILE, random_model("llama"), "Q4_0")
    content = bytearray((tmp_path / FILE).read_bytes())
    header = read_header(Reader(files({FILE: bytes(content)})), FILE, Limits())
    stored = next(t for t in header.tensors if t.name == "blk.1.attn_q.weight")
    content[stored.start : stored.start + 2] = np.float16(np.nan).tobytes()
    part = Checkpoint.open(files({FILE: bytes(content)})).read_part(2)
    refused(part.tensors, "checkpoint-not-finite", "block 2: self_attn.q_proj.weight has 32 NaN")


@st.composite
def mutations(draw, content, header_bytes):
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, header_bytes - 1))
        changed[at] = draw(st.integers(0, 255))
    return bytes(changed)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_header_is_refused_or_read_as_the_package_reads_it(sound, files, attempt, tmp_path_factory, data):
    end = min(t.start for t in read_header(Reader(files({FILE: sound})), FILE, Limits()).tensors)
    content = data.draw(mutations(sound, end))
    tracemalloc.start()
    header = attempt(lambda: read_header(Reader(files({FILE: content})), FILE, Limits()))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    if isinstance(header, CheckpointError):
        return
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(content)
    expected = gguf.GGUFReader(path)
    assert {(t.name, t.start, t.length, t.shape[::-1], t.dtype) for t in header.tensors} == {
        (t.name, t.data_offset, t.n_bytes, tuple(map(int, t.shape)), t.tensor_type.name) for t in expected.tensors
    }
    for key, value in header.metadata.items():
        if not isinstance(value, Skipped):
            assert expected.fields[key].contents() == value or value != value
