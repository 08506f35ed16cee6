import json

import pytest
import torch
from safetensors.torch import save

from peelbound.service.sources import CHECKPOINT_SUFFIXES
from peelbound.workers.checkpoint.checkpoint import TOKENIZER_FILE
from peelbound.workers.checkpoint.config import CONFIG_FILE
from peelbound.workers.checkpoint.gguf.file import SUFFIX as GGUF_SUFFIX
from peelbound.workers.checkpoint.index import INDEX_FILE, LAYOUTS, SINGLE_FILE, read_tensors
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.torch_files import dcp

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def index(weight_map):
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()


def shards(**changes):
    content = {
        ONE: save({"a": torch.zeros(2), "b": torch.ones(3)}),
        TWO: save({"c": torch.zeros(4)}),
        INDEX_FILE: index({"a": ONE, "b": ONE, "c": TWO}),
    }
    return content | changes


def test_finds_each_tensor_in_its_shard(reader):
    tensors = read_tensors(reader(shards()), Limits())
    assert {name: (tensor.file, tensor.shape) for name, tensor in tensors.items()} == {
        "a": (ONE, (2,)),
        "b": (ONE, (3,)),
        "c": (TWO, (4,)),
    }


def test_takes_the_single_file_where_both_exist(reader):
    content = shards() | {SINGLE_FILE: save({"d": torch.zeros(1)})}
    assert read_tensors(reader(content), Limits()).keys() == {"d"}


def test_names_the_missing_shard(reader, refused):
    content = shards()
    del content[TWO]
    error = refused(lambda: read_tensors(reader(content), Limits()), "checkpoint-shard-missing", "1 of 2", TWO)
    assert error.extra["files"] == [TWO]


def test_names_the_truncated_shard(reader, refused):
    content = shards()
    content[TWO] = content[TWO][:-1]
    refused(lambda: read_tensors(reader(content), Limits()), "checkpoint-truncated", TWO)


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "..",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        ".hidden.safetensors",
        "model.bin",
        "m" * 600 + ".safetensors",
        "new\nline.safetensors",
        "",
        None,
        7,
        [ONE],
    ],
)
def test_refuses_a_file_name_that_may_lead_elsewhere(reader, refused, file):
    content = shards(**{INDEX_FILE: index({"a": file, "b": ONE, "c": TWO})})
    refused(lambda: read_tensors(reader(content), Limits()), "checkpoint-index-invalid", INDEX_FILE, "'a'")


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": 1}'])
def test_refuses_an_index_without_a_weight_map(reader, refused, raw):
    refused(lambda: read_tensors(reader({INDEX_FILE: raw}), Limits()), "checkpoint-index-invalid", INDEX_FILE)


def test_refuses_a_tensor_that_the_index_names_twice(reader, refused):
    raw = f'{{"weight_map": {{"a": "{ONE}", "a": "{TWO}"}}}}'.encode()
    refused(lambda: read_tensors(reader(shards(**{INDEX_FILE: raw})), Limits()), "checkpoint-index-invalid", "'a'")


@pytest.mark.parametrize(
    ("changes", "culprits"),
    [
        pytest.param(
            {INDEX_FILE: index({"a": ONE, "c": TWO})}, ["'b'", ONE, "not in", INDEX_FILE], id="not in the index"
        ),
        pytest.param(
            {INDEX_FILE: index({"a": ONE, "b": ONE, "c": TWO, "d": TWO})},
            ["'d'", TWO, "not there"],
            id="nowhere",
        ),
        pytest.param({INDEX_FILE: index({"a": TWO, "b": ONE, "c": TWO})}, ["'a'", ONE, TWO], id="in another file"),
        pytest.param({TWO: save({"c": torch.zeros(4), "a": torch.zeros(2)})}, ["'a'", ONE, TWO], id="twice"),
    ],
)
def test_index_and_shards_must_agree(reader, refused, changes, culprits):
    refused(lambda: read_tensors(reader(shards(**changes)), Limits()), "checkpoint-index-mismatch", *culprits)


@pytest.mark.parametrize(
    ("limits", "slug"),
    [
        (Limits(index_bytes=10), "checkpoint-index-too-large"),
        (Limits(indexed_tensors=2), "checkpoint-index-too-large"),
        (Limits(shards=1), "checkpoint-index-invalid"),
    ],
)
def test_holds_the_bounds_before_any_header_is_read(files, reader, refused, limits, slug):
    source = reader(shards())
    refused(lambda: read_tensors(source, limits), slug, INDEX_FILE)
    assert source.bytes_read in (0, len(shards()[INDEX_FILE]))


@pytest.mark.parametrize(
    "names",
    [["consolidated.bin"], ["pytorch_model-00001-of-00002.bin"], ["weights.pt", "optimizer.pt"], ["model.pth"]],
)
def test_a_pickled_checkpoint_is_refused_with_how_to_convert_it(reader, refused, names):
    source = reader(dict.fromkeys([*names, "config.json"], b"\x80\x04"))
    error = refused(lambda: read_tensors(source, Limits()), "checkpoint-pickle", names[0])
    assert "AutoModelForCausalLM.from_pretrained(path).save_pretrained(out)" in error.remedy
    assert "optimizer" not in error.detail
    assert source.bytes_read == 0


@pytest.mark.parametrize(
    ("names", "culprit"),
    [
        (["config.json", "training_args.bin", "rng_state.pth"], "training_args.bin"),
        (["adapter_config.json", "adapter_model.safetensors"], "adapter"),
        ([], "found []"),
    ],
)
def test_a_directory_without_weights_is_refused(reader, refused, names, culprit):
    source = reader(dict.fromkeys(names, b""))
    refused(lambda: read_tensors(source, Limits()), "checkpoint-weights-missing", SINGLE_FILE, INDEX_FILE, culprit)


def test_whatever_the_readers_ask_for_is_what_sources_hold_to_the_allow_list():
    names = [CONFIG_FILE, TOKENIZER_FILE, dcp.METADATA_FILE, f"a{dcp.SUFFIX}", f"a{GGUF_SUFFIX}"]
    for layout in LAYOUTS:
        names += [layout.single, layout.index, f"a{layout.suffix}"]
    assert [name for name in names if not name.endswith(CHECKPOINT_SUFFIXES)] == []
