"""Checkpoints as torch itself writes them, for the tests of their readers."""

import json
import os
import warnings
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, distributed
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter, save
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.multiprocessing.spawn import spawn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_bin(directory: Path, model: "PreTrainedModel", shards: int = 1) -> None:
    """`config.json` and `pytorch_model.bin`, or shards and their index."""
    directory.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(directory)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, directory / "pytorch_model.bin")
        return
    files = [f"pytorch_model-{number:05}-of-{shards:05}.bin" for number in range(1, shards + 1)]
    weight_map = {name: files[place % shards] for place, name in enumerate(state)}
    for file in files:
        torch.save({name: state[name] for name in state if weight_map[name] == file}, directory / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


class MeshPlanner(DefaultSavePlanner):
    """Saves each tensor as a mesh of devices holds it: rows cut by the first number, columns by the second."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        items = []
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                items.append(item)
                continue
            tensor = self.state_dict[item.index.fqn]
            for number, chunk in enumerate(_chunks(tensor, (self.rows, self.columns))):
                index = MetadataIndex(item.index.fqn, chunk.offsets, number)
                data = TensorWriteData(chunk, TensorProperties.create_from_tensor(tensor), tensor.size())
                items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        self.plan = SavePlan(items, planner_data=plan.planner_data)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        if write_item.type == WriteItemType.BYTE_IO:
            return super().resolve_data(write_item)
        data = write_item.tensor_data
        assert data is not None
        box = zip(data.chunk.offsets, data.chunk.sizes, strict=True)
        return self.state_dict[write_item.index.fqn].detach()[tuple(slice(o, o + s) for o, s in box)].contiguous()


def _chunks(tensor: Tensor, cuts: tuple[int, ...]) -> list[ChunkStorageMetadata]:
    spans = []
    for size, count in zip(tensor.shape, cuts, strict=False):
        step = -(-size // count)
        spans.append([(at, min(step, size - at)) for at in range(0, size, step)])
    spans += [[(0, size)] for size in tensor.shape[len(cuts) :]]
    return [
        ChunkStorageMetadata(torch.Size(o for o, _ in box), torch.Size(s for _, s in box)) for box in product(*spans)
    ]


def write_dcp(
    directory: Path, state: dict[str, Any], planner: DefaultSavePlanner | None = None, files: int = 1
) -> None:
    """A distributed checkpoint by torch's own writer, in one process."""
    directory.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is distributed
        writer = FileSystemWriter(directory, single_file_per_rank=files == 1, thread_count=files)
        save(state, storage_writer=writer, planner=planner, no_dist=True)


def write_dcp_by_ranks(directory: Path, weights: Path, ranks: int = 2) -> None:
    """A distributed checkpoint of a safetensors file, by processes that each hold a part of every tensor."""
    spawn(_save_rank, args=(ranks, directory, weights), nprocs=ranks)


def _save_rank(rank: int, ranks: int, directory: Path, weights: Path) -> None:
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    meeting = f"file://{directory.parent / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    state: dict[str, DTensor] = {}
    for place, (name, tensor) in enumerate(sorted(load_file(weights).items())):
        axis = place % 2 if tensor.ndim > 1 else 0  # rows as FSDP shards them, columns as tensor parallelism does
        state[name] = distribute_tensor(tensor, mesh, [Shard(axis)])
    save({"model": state, "step": torch.tensor(7)}, checkpoint_id=directory)
    distributed.destroy_process_group()
