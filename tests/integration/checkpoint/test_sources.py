"""Checkpoints through the sources that the service reads them from: a directory, and a real S3 server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from peelbound.service.settings import Settings
from peelbound.service.sources import open_source
from peelbound.service.uris import AllowList
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.errors import CheckpointChanged, CheckpointError
from peelbound.workers.source import ByteSource
from tests.gguf_files import write_gguf
from tests.s3_server import S3Server, s3_server
from tests.tiny_models import random_model
from tests.torch_files import MeshPlanner, write_bin, write_dcp, write_dcp_by_ranks

__all__ = ["s3_server"]


class Place:
    """Where a checkpoint lies, in one of the two kinds of storage."""

    def __init__(self, uri: str, settings: Settings, write: Callable[[str, bytes], Any]) -> None:
        self.write, self.uri = write, uri
        self._resolved = AllowList([uri]).resolve(uri, "/checkpoint")
        self._settings = settings

    def source(self, name: str = "") -> ByteSource:
        """The whole place, or one file in it."""
        resolved = AllowList([self.uri]).resolve(f"{self.uri}/{name}", "/checkpoint") if name else self._resolved
        return open_source(resolved, self._settings)


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "directory":
        directory = tmp_path / "placed"
        directory.mkdir()
        return Place(directory.as_uri(), Settings(), lambda name, data: (directory / name).write_bytes(data))
    server: S3Server = request.getfixturevalue("s3_server")
    bucket = server.new_bucket()
    client = server.access().client()
    settings = Settings(
        s3_endpoint_url=server.endpoint_url,
        s3_access_key_id=server.access().access_key_id,
        s3_secret_access_key=server.access().secret_access_key,
    )
    return Place(
        f"s3://{bucket}/runs/7",
        settings,
        lambda name, data: client.put_object(Bucket=bucket, Key=f"runs/7/{name}", Body=data),
    )


@pytest.fixture
def saved(tmp_path: Path) -> tuple[LlamaForCausalLM, dict[str, bytes]]:
    """A model and the files that it was saved to, in several shards."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(tmp_path / "saved", max_shard_size="12KB")
    return model, {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}


def test_a_walk_gives_the_saved_weights_and_reads_each_byte_once(place, saved):
    model, files = saved
    for name, data in files.items():
        place.write(name, data)
    checkpoint = Checkpoint.open(place.source())
    at_open = checkpoint.bytes_read
    for part in checkpoint.read_parts([1, 2, 3]):
        expected = model.model.layers[part.index - 1].state_dict()
        tensors = part.tensors()
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, expected[name].float()), name
    assert checkpoint.bytes_read - at_open == sum(checkpoint.part_bytes[1:])


def test_a_checkpoint_that_is_written_to_while_it_is_walked_ends_the_walk(place, saved):
    _, files = saved
    for name, data in files.items():
        place.write(name, data)
    checkpoint = Checkpoint.open(place.source())
    checkpoint.read_part(1)
    for name, data in files.items():
        if name.endswith(".safetensors"):
            place.write(name, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointChanged) as caught:
        list(checkpoint.read_parts([2, 3]))
    assert caught.value.slug == "checkpoint-changed"
    assert caught.value.remedy


def test_a_shard_that_is_still_being_copied_is_named(place, saved):
    _, files = saved
    last = max(name for name in files if name.endswith(".safetensors"))
    for name, data in files.items():
        place.write(name, data[: len(data) // 2] if name == last else data)
    with pytest.raises(CheckpointError, match=last) as caught:
        Checkpoint.open(place.source())
    assert caught.value.slug == "checkpoint-truncated"


def test_a_gguf_file_is_read_by_its_own_uri_also_among_others(place, tmp_path):
    model = random_model("llama", hidden_size=64)
    write_gguf(tmp_path / "written.gguf", model, "Q8_0")
    for name in ("model.gguf", "another.gguf"):
        place.write(name, (tmp_path / "written.gguf").read_bytes())
    checkpoint = Checkpoint.open(place.source("model.gguf"))
    at_open = checkpoint.bytes_read
    tensors = checkpoint.read_part(2).tensors()
    assert checkpoint.bytes_read - at_open == checkpoint.part_bytes[2]
    for name, weight in model.model.layers[1].state_dict().items():
        step = weight.abs().max() / 127
        torch.testing.assert_close(tensors[name], weight, rtol=0, atol=float(step if weight.ndim > 1 else 0))
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(place.source())
    assert caught.value.slug == "checkpoint-several-files"


@pytest.mark.parametrize("kind", ["bin", "sharded bin", "distributed"])
def test_what_torch_wrote_gives_the_parts_that_safetensors_give(place, saved, tmp_path, kind):
    model, _ = saved
    safe = tmp_path / "saved"
    expected = Checkpoint.open(
        open_source(AllowList([safe.as_uri()]).resolve(safe.as_uri(), "/checkpoint"), Settings())
    )
    written = tmp_path / "written"
    if kind == "distributed":
        write_dcp(written, {"model": model.state_dict(), "step": 7}, MeshPlanner(2, 2), files=2)
        model.config.save_pretrained(written)
    else:
        write_bin(written, model, shards=1 if kind == "bin" else 3)
    for path in written.iterdir():
        place.write(path.name, path.read_bytes())
    checkpoint = Checkpoint.open(place.source())
    parts = list(checkpoint.read_parts([1, 2, 3, 0]))
    assert [part.sha256 for part in parts] == [expected.read_part(part.index).sha256 for part in parts]
    assert checkpoint.part_bytes == expected.part_bytes
    if kind != "distributed":
        damaged = max(name for name in written.iterdir() if name.suffix == ".bin")
        place.write(damaged.name, damaged.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match="truncated"):
            Checkpoint.open(place.source())


def test_what_several_processes_saved_gives_the_parts_that_safetensors_give(tmp_path):
    model = random_model("llama", intermediate_size=66)  # 33 rows for each process
    model.save_pretrained(tmp_path / "safe")
    write_dcp_by_ranks(tmp_path / "dcp", tmp_path / "safe" / "model.safetensors")
    model.config.save_pretrained(tmp_path / "dcp")
    assert {path.name for path in (tmp_path / "dcp").glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
    one, other = (
        Checkpoint.open(open_source(AllowList([folder.as_uri()]).resolve(folder.as_uri(), "/checkpoint"), Settings()))
        for folder in (tmp_path / "safe", tmp_path / "dcp")
    )
    assert [one.read_part(index).sha256 for index in range(4)] == [other.read_part(index).sha256 for index in range(4)]
