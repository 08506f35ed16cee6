"""Mutated checkpoints: each ends in a typed problem, or gives exactly what an independent reader of the format gives.

One case is named by seed and number alone: FUZZ_SEED=3 FUZZ_ONLY=128 repeats it.
"""

import json
import os
import pickle
import resource
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from random import Random
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load, save_file

from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.errors import CheckpointError
from peelbound.workers.skeleton import Skeleton
from tests import packers
from tests.fuzz.mutations import mutated_bytes, mutated_json
from tests.gguf_files import some_tokens, write_gguf
from tests.tiny_models import random_model
from tests.torch_files import MeshPlanner, write_bin, write_dcp
from tests.unit.checkpoint.conftest import Files

SIZES = {"num_hidden_layers": 2, "vocab_size": 64}
MOST_GROWTH = 400 << 20
"""Bytes by which the process may grow over all cases. The files have some 100 KB."""

Content = dict[str, bytes]
Tensors = dict[str, torch.Tensor]


def packed_gptq(directory: Path) -> None:
    model = random_model("llama", **SIZES)
    tensors: Tensors = {}
    for name, weight in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module.endswith("_proj") and kind == "weight":
            made = packers.gptq(weight, bits=4, group=32, lowered=True)[0]
            tensors |= {f"{module}.{key}": tensor.contiguous() for key, tensor in made.items()}
        else:
            tensors[name] = weight
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    (directory / "config.json").write_text(json.dumps(model.config.to_dict() | {"quantization_config": settings}))


def written(directory: Path, kind: str) -> Content:
    """A sound checkpoint of a kind."""
    model = random_model("llama", **SIZES)
    match kind:
        case "config" | "safetensors":
            model.save_pretrained(directory)
        case "index":
            model.save_pretrained(directory, max_shard_size="12KB")
        case "torch":
            write_bin(directory, model)
        case "dcp":
            write_dcp(directory, {"model": model.state_dict(), "step": 3}, MeshPlanner(2, 1), files=2)
            model.config.save_pretrained(directory)
        case "gguf":
            directory.mkdir()
            write_gguf(directory / "model.gguf", model, "Q4_0", tokenizer=some_tokens())
        case "packed":
            packed_gptq(directory)
    return Files.under(directory).content


# -- what is damaged ---------------------------------------------------------------------------------------------------


def damage_safetensors(random: Random, content: Content) -> Content:
    raw = content["model.safetensors"]
    end = 8 + int.from_bytes(raw[:8], "little")
    if random.random() < 0.5:
        return content | {"model.safetensors": mutated_bytes(random, raw, 0, end)}
    header = mutated_json(random, raw[8:end])
    return content | {"model.safetensors": len(header).to_bytes(8, "little") + header + raw[end:]}


def damage_json(file: str, random: Random, content: Content) -> Content:
    return content | {file: mutated_json(random, content[file])}


def damage_packed(random: Random, content: Content) -> Content:
    if random.random() < 0.4:
        return damage_safetensors(random, content)
    config = json.loads(content["config.json"])
    settings = mutated_json(random, json.dumps(config["quantization_config"]).encode())
    try:
        config["quantization_config"] = json.loads(settings)
    except ValueError:
        config["quantization_config"] = settings.decode("latin-1")
    return content | {"config.json": json.dumps(config).encode("utf-8", "surrogatepass")}


def damage_torch(random: Random, content: Content) -> Content:
    file = "pytorch_model.bin"
    raw = content[file]
    directory = raw.index(b"PK\x01\x02")
    start, end = random.choice(((0, 4096), (directory, len(raw)), (directory, len(raw)), (0, len(raw))))
    return content | {file: mutated_bytes(random, raw, start, end)}


def damage_dcp(random: Random, content: Content) -> Content:
    chunks = sorted(name for name in content if name.endswith(".distcp"))
    file = ".metadata" if random.random() < 0.7 else random.choice(chunks)
    if random.random() < 0.03:
        return {name: data for name, data in content.items() if name != file}
    return content | {file: mutated_bytes(random, content[file])}


def damage_gguf(random: Random, content: Content) -> Content:
    raw = content["model.gguf"]
    return content | {"model.gguf": mutated_bytes(random, raw, 0, min(len(raw), 4096))}


DAMAGES: dict[str, Callable[[Random, Content], Content]] = {
    "config": partial(damage_json, "config.json"),
    "safetensors": damage_safetensors,
    "index": partial(damage_json, "model.safetensors.index.json"),
    "packed": damage_packed,
    "torch": damage_torch,
    "dcp": damage_dcp,
    "gguf": damage_gguf,
}


# -- what others read --------------------------------------------------------------------------------------------------


def safetensors_of(content: Content) -> Tensors:
    return {name: t for file, raw in content.items() if file.endswith(".safetensors") for name, t in load(raw).items()}


def torch_tensors_of(content: Content) -> Tensors:
    tensors: Tensors = torch.load(BytesIO(content["pytorch_model.bin"]), weights_only=True)
    return tensors


class MetadataUnpickler(pickle.Unpickler):
    """Makes torch's own objects of the metadata, and nothing else that a mutation may name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("pathlib", "PosixPath"):
            return Path
        if module.startswith("torch.distributed.checkpoint.") or (module, name) in (
            ("torch", "float32"), ("torch", "Size"), ("torch.serialization", "_get_layout"),
        ):  # fmt: skip
            return super().find_class(module, name)
        raise pickle.UnpicklingError(name)


def chunks_of(content: Content) -> Tensors:
    metadata = MetadataUnpickler(BytesIO(content[".metadata"])).load()
    tensors: Tensors = {}
    for index, place in metadata.storage_data.items():
        entry = metadata.state_dict_metadata[index.fqn]
        if index.offset is None or prod(entry.size) > 1 << 20:
            continue
        raw = content[place.relative_path][place.offset : place.offset + place.length]
        chunk = torch.load(BytesIO(raw), weights_only=True)
        whole = tensors.setdefault(metadata.planner_data[index.fqn][-1], torch.zeros(entry.size))
        whole[tuple(slice(o, o + s) for o, s in zip(index.offset, chunk.shape, strict=True))] = chunk
    return tensors


def gguf_bytes_of(content: Content, path: Path) -> Counter[bytes]:
    path.write_bytes(content["model.gguf"])
    return Counter(tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors)


def read_by_others(kind: str, content: Content, path: Path) -> Counter[bytes] | None:
    """The bytes of each tensor, as another reader of the format finds them; None where it refuses."""
    readers = {"torch": torch_tensors_of, "dcp": chunks_of}
    try:
        if kind == "gguf":
            return gguf_bytes_of(content, path)
        tensors = readers.get(kind, safetensors_of)(content)
        return Counter(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() for tensor in tensors.values())
    except Exception:  # whatever another reader says of a file that is damaged
        return None


# -- the cases ---------------------------------------------------------------------------------------------------------


def read_all(source: Files, forward: bool) -> list[bytes] | CheckpointError:
    """The bytes of each tensor as stored, if the checkpoint is read to its end; the typed problem if it is not."""
    try:
        checkpoint = Checkpoint.open(source)
        checkpoint.tokenizer_json()
        skeleton, h, found = None, None, []
        for part in checkpoint.read_parts(range(checkpoint.architecture.block_count + 1)):
            tensors = part.tensors()
            part.grids()
            found += [part.data[entry.offset : entry.offset + entry.length].tobytes() for entry in part.entries]
            if forward and part.index == 0:
                skeleton = Skeleton(checkpoint.architecture, tensors)
                h = skeleton.embed(torch.zeros(1, 4, dtype=torch.long))
            elif skeleton is not None and h is not None:
                h = skeleton.run(part.index, skeleton.load_block(part.index, tensors), h)
        return found
    except CheckpointError as error:
        return error


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Content]:
    directory = tmp_path_factory.mktemp("sound")
    return {kind: written(directory / kind, kind) for kind in DAMAGES}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_sound_checkpoint_is_read_as_others_read_it(sound: dict[str, Content], kind: str, tmp_path: Path) -> None:
    found = read_all(Files(dict(sound[kind])), forward=kind != "packed")
    assert isinstance(found, list), found
    others = read_by_others(kind, sound[kind], tmp_path / "copy")
    assert others is not None
    assert not Counter(found) - others


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.timeout(3600)
def test_damage_is_told_or_read_as_others_read_it(
    sound: dict[str, Content], kind: str, tmp_path: Path, rounds: int, seed: int
) -> None:
    only = os.environ.get("FUZZ_ONLY")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    outcomes: Counter[str] = Counter()
    for number in [int(only)] if only else range(rounds // len(DAMAGES)):
        content = DAMAGES[kind](Random(f"{seed} {kind} {number}"), sound[kind])
        case = f"FUZZ_SEED={seed} FUZZ_ONLY={number} (-k {kind})"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the library comments on odd configurations
                found = read_all(Files(content), forward=kind == "config")
        except Exception as error:
            raise AssertionError(f"{case}: {type(error).__name__} is no typed problem") from error
        if isinstance(found, CheckpointError):
            assert found.detail, case
            assert found.remedy, case
            assert found.pointer == "/checkpoint", case
            assert len(str(found)) < 3000, case
            str(found).encode()
            outcomes[found.slug] += 1
            continue
        outcomes["read"] += 1
        others = read_by_others(kind, content, tmp_path / "copy")
        if others is not None:
            assert not Counter(found) - others, f"{case}: others read it otherwise"
            outcomes["read by others alike"] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    print(f"{kind}: {dict(outcomes.most_common())}, grown by {grown >> 20} MiB")
    assert grown < MOST_GROWTH, f"the process grew by {grown:,} bytes"
