"""Files that torch wrote: what safetensors of the same model say must come out, digests included."""

import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from io import BytesIO

import pytest
import torch
from torch import nn

from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.checkpoint.torch_files.dcp import METADATA_FILE, read_metadata
from peelbound.workers.checkpoint.torch_files.pickled import read_pickle
from peelbound.workers.checkpoint.torch_files.weights_file import read_weights_file
from tests.tiny_models import random_model
from tests.torch_files import MeshPlanner, write_bin, write_dcp
from tests.unit.checkpoint.losses import audited_loss, library_loss

FILE = "pytorch_model.bin"


def digests(checkpoint):
    return [checkpoint.read_part(index).sha256 for index in range(checkpoint.architecture.block_count + 1)]


@pytest.fixture(scope="module")
def model():
    return random_model("llama")


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    """The digests of the parts as safetensors give them."""
    from tests.unit.checkpoint.conftest import Files

    directory = tmp_path_factory.mktemp("safetensors")
    model.save_pretrained(directory)
    return digests(Checkpoint.open(Files.under(directory)))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_bin_file_gives_what_safetensors_give(tmp_path, files, model, expected, shards):
    write_bin(tmp_path, model, shards)
    source = files.under(tmp_path)
    checkpoint = Checkpoint.open(source)
    at_open = checkpoint.bytes_read
    assert digests(checkpoint) == expected
    assert checkpoint.bytes_read - at_open == checkpoint.total_bytes
    assert checkpoint.dtypes == ["F32"]


@pytest.mark.parametrize("mesh", [None, (1, 1), (4, 1), (3, 2)])
@pytest.mark.parametrize("nested", [False, True])
def test_a_distributed_checkpoint_gives_what_safetensors_give(tmp_path, files, model, expected, mesh, nested):
    weights = model.state_dict()
    optimiser = {name: {"exp_avg": torch.ones_like(w), "step": torch.tensor(3.0)} for name, w in weights.items()}
    state = {"model": weights, "optim": {"state": optimiser, "lr": 0.1}, "step": 7} if nested else dict(weights)
    write_dcp(tmp_path, state, MeshPlanner(*mesh) if mesh else None, files=2)
    model.config.save_pretrained(tmp_path)
    source = files.under(tmp_path)
    checkpoint = Checkpoint.open(source)
    assert {name for name, _, _ in source.reads} == {"config.json", ".metadata"}
    assert digests(checkpoint) == expected


def test_large_chunks_are_read_by_ranges(tmp_path, files, monkeypatch, model, expected):
    monkeypatch.setattr("peelbound.workers.checkpoint.torch_files.chunks.CHUNK_BYTES", 64)
    write_dcp(tmp_path, model.state_dict(), MeshPlanner(2, 2))
    model.config.save_pretrained(tmp_path)
    assert digests(Checkpoint.open(files.under(tmp_path))) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_tied_models_in_every_dtype_have_the_library_s_loss(tmp_path, files, family, dtype):
    model = random_model(family).to(dtype)
    write_bin(tmp_path / "bin", model)
    write_dcp(tmp_path / "dcp", model.state_dict(), MeshPlanner(2, 1))
    model.config.save_pretrained(tmp_path / "dcp")
    model.save_pretrained(tmp_path / "safe")
    checkpoints = [Checkpoint.open(files.under(tmp_path / name)) for name in ("bin", "dcp")]
    loss = library_loss(tmp_path / "safe", checkpoints[0])
    for checkpoint in checkpoints:
        assert checkpoint.architecture.tied_embeddings
        assert audited_loss(checkpoint) == pytest.approx(loss, abs=3e-6)


def test_parameters_and_views_of_one_storage_are_read_as_such(tmp_path, files, model, expected):
    state = {name: nn.Parameter(w.clone()) for name, w in model.state_dict().items()}
    packed = torch.cat([state["model.layers.0.mlp.gate_proj.weight"], state["model.layers.0.mlp.up_proj.weight"]])
    state["model.layers.0.mlp.gate_proj.weight"], state["model.layers.0.mlp.up_proj.weight"] = packed.chunk(2)
    write_bin(tmp_path, model)
    torch.save(state, tmp_path / FILE)
    assert digests(Checkpoint.open(files.under(tmp_path))) == expected


def test_safetensors_are_taken_first(tmp_path, files, model, expected):
    write_bin(tmp_path, random_model("llama", hidden_size=16))
    write_dcp(tmp_path, {"a": torch.zeros(1)})
    model.save_pretrained(tmp_path)
    assert digests(Checkpoint.open(files.under(tmp_path))) == expected


# -- bad input: one file ---------------------------------------------------------------------------------------------


def saved(value, **options):
    file = BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def rewritten(raw, method=zipfile.ZIP_STORED, **entries):
    """The same zip file with some entries changed, by name below the root; None leaves one out."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(raw)) as old, zipfile.ZipFile(out, "w", method) as new:
        for info in old.infolist():
            content = entries.get(info.filename.partition("/")[2], old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
    return out.getvalue()


def pickle_of(raw):
    with zipfile.ZipFile(BytesIO(raw)) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))


SOUND = saved({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)})


def open_bin(files, content):
    return read_weights_file(Reader(files({FILE: content})), FILE, Limits())


class Runs:
    """Pickled so that unpickling it leaves a file behind."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def test_what_a_pickle_would_run_is_named_and_not_run(tmp_path, files, refused):
    trace = tmp_path / "was here"
    metadata = pickle.dumps({"a": Runs(trace)})
    for content in (saved({"a": Runs(trace)}), saved(OrderedDict(a=torch.ones(1), b=Runs(trace)))):
        refused(lambda c=content: open_bin(files, c), "checkpoint-pickle", "posix.mkdir", FILE)
    reader = Reader(files({METADATA_FILE: metadata}))
    refused(lambda: read_metadata(reader, Limits(), ()), "checkpoint-pickle", "posix.mkdir", METADATA_FILE)
    assert not trace.exists()


STRIDED = saved({"t": torch.arange(6.0).reshape(2, 3).t()})
OFFSET = pickle_of(SOUND).replace(b"K\x00K\x02K\x03", b"K\x01K\x02K\x03")
LARGER = pickle_of(SOUND).replace(b"K\x06t", b"K\x07t")


@pytest.mark.parametrize(
    ("content", "slug", "culprit"),
    [
        (saved({"a": torch.ones(1)}, _use_new_zipfile_serialization=False), "checkpoint-torch-legacy", "1.6"),
        (b"", "checkpoint-torch-legacy", ""),
        (saved(nn.Linear(2, 2)), "checkpoint-pickle", "torch.nn.modules.linear.Linear"),
        (saved(torch.ones(1)), "checkpoint-torch-invalid", "no dictionary"),
        (saved({1: torch.ones(1)}), "checkpoint-torch-invalid", "no dictionary"),
        (saved({"model": {"a": torch.ones(1)}}), "checkpoint-torch-invalid", "the dictionary 'model'"),
        (saved({"a": torch.ones(1), "step": 3}), "checkpoint-torch-invalid", "'step' cannot be read: it is 3"),
        (saved({"a" * 600: torch.ones(1)}), "checkpoint-torch-invalid", "512 characters"),
        (saved({"a": torch.ones(1, dtype=torch.complex64)}), "checkpoint-pickle", "ComplexFloatStorage"),
        (STRIDED, "checkpoint-torch-invalid", "not contiguous: shape [3, 2], strides [1, 3]"),
        (rewritten(SOUND, zipfile.ZIP_DEFLATED), "checkpoint-torch-invalid", "compressed"),
        (rewritten(SOUND, byteorder=b"big"), "checkpoint-torch-invalid", "byte order"),
        (rewritten(SOUND, **{"data/0": None}), "checkpoint-torch-invalid", "data/0"),
        (rewritten(SOUND, **{"data/0": bytes(20)}), "checkpoint-torch-invalid", "has 20 bytes and not 24"),
        (rewritten(SOUND, **{"data.pkl": None}), "checkpoint-torch-invalid", "0 entries data.pkl"),
        (rewritten(SOUND, **{"data.pkl": OFFSET}), "checkpoint-torch-invalid", "ends at byte 28"),
        (rewritten(SOUND, **{"data.pkl": LARGER}), "checkpoint-torch-invalid", "has 24 bytes and not 28"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_hold_no_plain_weights_are_refused_by_name(files, refused, content, slug, culprit):
    refused(lambda: open_bin(files, content), slug, culprit, FILE)


def test_a_file_cut_anywhere_is_refused(files, refused):
    for length in range(4, len(SOUND), 5):
        error = refused(lambda n=length: open_bin(files, SOUND[:n]), "checkpoint-truncated", FILE)
        assert error.extra["actual_bytes"] == length


def test_an_entry_that_torch_would_take_for_a_directory_is_refused(files, refused):
    """It would read none of its bytes, and give whatever lay in memory; found by the fuzzer."""
    attributes = SOUND.rindex(b"archive/data/1") - 8
    content = SOUND[:attributes] + b"\x10" + SOUND[attributes + 1 :]
    with zipfile.ZipFile(BytesIO(content)) as archive:
        (marked,) = [info for info in archive.infolist() if info.external_attr]
    assert marked.filename.endswith("/data/1")
    refused(lambda: open_bin(files, content), "checkpoint-torch-invalid", "data/1", "directory")


def test_entries_that_share_bytes_are_refused(files, refused):
    with zipfile.ZipFile(BytesIO(SOUND)) as archive:
        first, second = (next(i for i in archive.infolist() if i.filename.endswith(f"data/{key}")) for key in (0, 1))
    directory = SOUND.rindex(b"data/1") - 46 - len("archive/")
    at = SOUND.index(struct.pack("<I", second.header_offset), directory)
    for offset in (first.header_offset, first.header_offset + 8, first.header_offset - 8):
        content = SOUND[:at] + struct.pack("<I", offset) + SOUND[at + 4 :]
        refused(lambda c=content: open_bin(files, c), "checkpoint-torch-invalid", "overlap")


@pytest.mark.parametrize(
    ("raw", "culprit"),
    [
        (b"\x80\x02" + b"}" * 5000 + b".", "does not end with one object"),
        (b"\x80\x02" + b"]" * 20 + b"a" * 19 + b".", "no dictionary"),
        (b"\x80\x02h\x07.", "object 7"),
        (b"\x80\x02(lp0\n.", "LIST"),
        (b"\x80\x04\x8f.", "EMPTY_SET"),
        (b"\x80\x02}(K\x01u.", "not a dictionary"),
        (b"\x80\x02K\x01K\x02R.", "calls what is not a name"),
        (b"\x80\x02K\x01K\x02\x93.", "a name in its pickle is none"),
        (b"\x80\x02X\xff\xff\xff\x7fabc", "broken"),
        (b"\x80\x02tttt", "broken"),
        (b"\x80\x02}", "broken"),
        (b"\xff", "broken"),
        (b"", "broken"),
    ],
)
def test_pickles_that_are_no_state_dict_are_refused(files, refused, raw, culprit):
    refused(lambda: open_bin(files, rewritten(SOUND, **{"data.pkl": raw})), "checkpoint-torch-invalid", culprit)


def test_a_pickle_of_many_operations_is_refused_in_bounded_memory(refused):
    tracemalloc.start()
    for raw in (b"}" * 10**7, b"]a" * 10**6, b"K\x01\x94" * 10**6, b"]" + b"2" * 10**6):
        refused(
            lambda r=raw: read_pickle(
                b"\x80\x04" + r, file=FILE, operations=100_000, known=lambda _: False, remedy="-"
            ),
            "checkpoint-torch-invalid",
        )
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()


def test_keys_that_collide_take_no_longer(files, refused):
    # Whole numbers that are multiples of 2^61 - 1 have one hash; in a dictionary their number counts squared.
    keys = [(i * (2**61 - 1)).to_bytes(12, "little") for i in range(100_000)]
    raw = b"\x80\x02}(" + b"".join(b"\x8a\x0c" + key + b"N" for key in keys) + b"u."
    refused(lambda: open_bin(files, rewritten(SOUND, **{"data.pkl": raw})), "checkpoint-torch-invalid", "no dictionary")


# -- bad input: distributed checkpoints ------------------------------------------------------------------------------


@pytest.fixture
def distributed(tmp_path, files):
    """A sound one in memory, with its metadata as torch's own objects."""
    write_dcp(tmp_path, {"a": torch.arange(12.0).reshape(4, 3), "b": torch.ones(4)}, MeshPlanner(2, 1), files=2)
    source = files.under(tmp_path)
    return source, pickle.loads(source.content[METADATA_FILE])


def opened(source, metadata):
    source.content[METADATA_FILE] = pickle.dumps(metadata)
    return read_metadata(Reader(source), Limits(), ("a", "b"))


def test_missing_and_short_files_are_named(distributed, refused):
    source, metadata = distributed
    file = "__0_1.distcp"
    whole = source.content[file]
    source.content[file] = whole[:-1]
    error = refused(lambda: opened(source, metadata), "checkpoint-truncated", file, f"{len(whole):,}")
    assert error.extra["actual_bytes"] == len(whole) - 1
    del source.content[file]
    error = refused(lambda: opened(source, metadata), "checkpoint-shard-missing", file, "are missing")
    assert error.extra["files"] == [file]


def test_files_without_metadata_are_still_being_written(distributed, refused, files):
    source, _ = distributed
    del source.content[METADATA_FILE]
    source.content["config.json"] = b'{"model_type": "llama"}'
    refused(lambda: Checkpoint.open(source), "checkpoint-weights-missing", "no .metadata")


def lacks_a_chunk(metadata):
    of_a = [key for key in metadata.storage_data if key.fqn == "a"]
    del metadata.storage_data[min(of_a, key=lambda key: key.offset)]  # they are written in any order


def has_no_places(metadata):
    metadata.storage_data = None


def has_overlapping_chunks(metadata):
    metadata.state_dict_metadata["a"].chunks[0].sizes = torch.Size([3, 3])


def has_a_gap(metadata):
    del metadata.state_dict_metadata["a"].chunks[0]


def has_no_chunks(metadata):
    metadata.state_dict_metadata["a"].chunks.clear()


def has_flat_chunks(metadata):
    metadata.state_dict_metadata["a"].chunks[0].sizes = torch.Size([6])


def has_negative_sizes(metadata):
    metadata.state_dict_metadata["a"].size = torch.Size([-4, 3])


def has_many_dimensions(metadata):
    metadata.state_dict_metadata["a"].size = torch.Size([1] * 9)


def leads_elsewhere(metadata):
    for info in metadata.storage_data.values():
        info.relative_path = "../__0_0.distcp"


def is_compressed(metadata):
    for info in metadata.storage_data.values():
        info.transform_descriptors = ["zstd"]


def lies_before_the_file(metadata):
    for info in metadata.storage_data.values():
        info.offset = -1


def is_empty(metadata):
    metadata.state_dict_metadata = {}


def is_complex(metadata):
    metadata.state_dict_metadata["a"].properties.dtype = torch.complex64


def has_two_models(metadata):
    metadata.planner_data = {"a": ("x", "a"), "b": ("y", "b")}


@pytest.mark.parametrize(
    ("damage", "slug", "culprit"),
    [
        (lacks_a_chunk, "checkpoint-shard-missing", "'a' at [0, 0]"),
        (has_no_places, "checkpoint-dcp-invalid", "where the tensors lie"),
        (has_overlapping_chunks, "checkpoint-dcp-invalid", "do not cover its shape [4, 3] exactly once"),
        (has_a_gap, "checkpoint-dcp-invalid", "the 1 chunks of 'a'"),
        (has_no_chunks, "checkpoint-dcp-invalid", "the 0 chunks of 'a'"),
        (has_flat_chunks, "checkpoint-dcp-invalid", "other dimensions"),
        (has_negative_sizes, "checkpoint-dcp-invalid", "the shape of 'a'"),
        (has_many_dimensions, "checkpoint-dcp-invalid", "the shape of 'a'"),
        (leads_elsewhere, "checkpoint-dcp-invalid", "'../__0_0.distcp'"),
        (is_compressed, "checkpoint-dcp-invalid", "compressed"),
        (lies_before_the_file, "checkpoint-dcp-invalid", "lie at -1"),
        (is_empty, "checkpoint-dcp-invalid", "cannot be told"),
        (is_complex, "checkpoint-dtype-unknown", "torch.complex64"),
        (has_two_models, "checkpoint-dcp-invalid", "cannot be told"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_metadata_that_contradict_themselves_are_refused(distributed, refused, damage, slug, culprit):
    source, metadata = distributed
    damage(metadata)
    refused(lambda: opened(source, metadata), slug, culprit, METADATA_FILE)


def test_chunks_that_are_not_what_the_metadata_say_are_refused(tmp_path, files, refused, model):
    write_dcp(tmp_path, model.state_dict(), MeshPlanner(2, 1))
    model.config.save_pretrained(tmp_path)
    source = files.under(tmp_path)
    metadata = pickle.loads(source.content[METADATA_FILE])
    places = {(index.fqn, *index.offset): info for index, info in metadata.storage_data.items()}
    ours = places["model.layers.0.self_attn.q_proj.weight", 0, 0]
    other = places["model.layers.0.mlp.gate_proj.weight", 0, 0]
    ours.offset, ours.length = other.offset, other.length
    source.content[METADATA_FILE] = pickle.dumps(metadata)
    checkpoint = Checkpoint.open(source)
    refused(
        lambda: checkpoint.read_part(1),
        "checkpoint-torch-invalid",
        "q_proj.weight' is F32 of shape [32, 32]; the metadata call for F32 of shape [16, 32]",
    )
    ours.length -= 1
    source.content[METADATA_FILE] = pickle.dumps(metadata)
    checkpoint = Checkpoint.open(source)
    refused(lambda: checkpoint.read_part(1), "checkpoint-truncated", "__0_0.distcp at byte")
