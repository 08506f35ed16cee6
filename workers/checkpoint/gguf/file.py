"""A GGUF file as a checkpoint: its weights under the model's names, and how they are stored."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import torch
from torch import Tensor

from peelbound.workers.architecture import Architecture
from peelbound.workers.checkpoint.decoders import Fused
from peelbound.workers.checkpoint.encoding import Encoding, Weights
from peelbound.workers.checkpoint.gguf.config import MODEL_TYPES, ROTARY_TENSORS
from peelbound.workers.checkpoint.gguf.decoder import FULL_TYPES, Gguf
from peelbound.workers.checkpoint.gguf.header import GgufHeader
from peelbound.workers.checkpoint.header import StoredTensor
from peelbound.workers.checkpoint.layout import Weight
from peelbound.workers.checkpoint.strict_json import quoted
from peelbound.workers.errors import CheckpointError, UnsupportedModel
from peelbound.workers.quantisers.scheme import Scheme

SUFFIX = ".gguf"

_SCHEMES = {
    "Q4_0": Scheme.parse("q4_0"),
    "Q4_1": Scheme.parse("q4_1"),
    "Q5_0": Scheme.parse("q5_0"),
    "Q5_1": Scheme.parse("q5_1"),
    "Q8_0": Scheme.parse("q8_0"),
    "TQ1_0": Scheme("ternary", None, 256),
    "TQ2_0": Scheme("ternary", None, 256),
}
_GATE, _UP, _DOWN = "ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"


@dataclass(frozen=True)
class Joined:
    """Experts' gates above their ups: [E, I, D] and [E, I, D] -> [E, 2 I, D], as the library fuses them."""

    def __call__(self, tensors: Any) -> Tensor:
        """Along the output channels."""
        return torch.cat(list(tensors), dim=1)


def find(files: Mapping[str, int]) -> str | None:
    """The GGUF file among these, if there is one.

    Raises:
        CheckpointError: ``checkpoint-several-files``: which one is meant cannot be told.
    """
    found = sorted(file for file in files if file.lower().endswith(SUFFIX))
    if len(found) > 1:
        raise CheckpointError(
            f"There are {len(found)} GGUF files: {quoted(found)}.",
            slug="checkpoint-several-files",
            remedy="Give the URI of the file itself; join the parts of a split one with llama-gguf-split --merge.",
            pointer="/checkpoint",
        )
    return found[0] if found else None


def weights(header: GgufHeader, architecture: Architecture) -> tuple[Encoding, Weights]:
    """The weights under the names of the model's own parameters.

    Raises:
        CheckpointError: ``checkpoint-tensors-unexpected``, ``checkpoint-shard-missing``.
        UnsupportedModel: ``model-gguf-architecture``.
    """
    if header.metadata.get("split.count", 1) not in (0, 1):
        raise CheckpointError(
            f"{header.file} is one of {quoted(header.metadata['split.count'])} parts.",
            slug="checkpoint-shard-missing",
            remedy="Join them with llama-gguf-split --merge.",
            pointer="/checkpoint",
        )
    config = architecture.empty_model().config
    heads = (config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    names = _model_names(header, architecture)
    tensors = {tensor.name: tensor for tensor in header.tensors if tensor.name not in ROTARY_TENSORS}
    found: Weights = {}
    for name, target in names.items():
        if name in tensors:
            found[target] = _weight(tensors.pop(name), header.architecture, heads, config.hidden_size)
    for target, gate, up in _joined(architecture):
        if gate in tensors and up in tensors:
            pair = [_weight(tensors.pop(n), header.architecture, heads, config.hidden_size) for n in (gate, up)]
            experts, width, inputs = pair[0].shape
            decoder = Fused((pair[0].decoder, pair[1].decoder), (1, 1), Joined())
            found[target] = Weight((experts, 2 * width, inputs), decoder, (*pair[0].stored, *pair[1].stored))
    if tensors:
        raise CheckpointError(
            f"{header.file} holds {quoted(sorted(tensors)[:5])}, for which {architecture.name} has no place.",
            slug="checkpoint-tensors-unexpected",
            remedy="Convert the model again, from the checkpoint that its configuration belongs to.",
            pointer="/checkpoint",
        )
    return _encoding(header), found


def _model_names(header: GgufHeader, architecture: Architecture) -> dict[str, str]:
    """The file's name of each of the model's parameters → the model's, by gguf-py's own tables."""
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if header.architecture not in numbers or header.architecture not in MODEL_TYPES:
        raise UnsupportedModel(
            f"{header.file} holds the architecture {quoted(header.architecture)}, which is not read.",
            slug="model-gguf-architecture",
            remedy="Audit the model's safetensors instead.",
            pointer="/checkpoint",
        )
    table = gguf.get_tensor_name_map(numbers[header.architecture], architecture.block_count)
    names: dict[str, str] = {}
    for target in architecture.empty_model().state_dict():
        stem, dot, kind = target.rpartition(".")
        if kind not in ("weight", "bias"):
            stem, dot, kind = target, ".", "weight"
        # Some tables know a family's names without the prefix that the model with a head adds.
        name = table.get_name(stem) or table.get_name(stem.partition(".")[2])
        if name is None and stem.endswith(".mlp.experts.down_proj"):
            name = f"blk.{_block(stem, architecture)}.{_DOWN.removesuffix('.weight')}"
        if name is not None:
            names.setdefault(f"{name}{dot}{kind}", target)
    return names


def _joined(architecture: Architecture) -> list[tuple[str, str, str]]:
    """The model's fused experts, with the file's names of their halves."""
    targets = [name for name in architecture.empty_model().state_dict() if name.endswith(".mlp.experts.gate_up_proj")]
    return [(t, f"blk.{_block(t, architecture)}.{_GATE}", f"blk.{_block(t, architecture)}.{_UP}") for t in targets]


def _block(name: str, architecture: Architecture) -> str:
    return name.removeprefix(f"{architecture.blocks_name}.").partition(".")[0]


def _weight(stored: StoredTensor, architecture: str, heads: tuple[int, int], width: int) -> Weight:
    name = stored.name.split(".", 2)[2] if stored.name.startswith("blk.") else stored.name
    decoder = Gguf(architecture, name, heads, width)
    if stored.dtype in FULL_TYPES and not decoder.changes:
        return Weight.plain(stored)
    return Weight(decoder.shape(stored.shape), decoder, (stored,))


def _encoding(header: GgufHeader) -> Encoding:
    """Of the matrices in the blocks."""
    kinds = Counter(t.dtype for t in header.tensors if t.name.startswith("blk.") and len(t.shape) > 1)
    packed = [kind for kind in kinds if kind not in FULL_TYPES]
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    scheme = _SCHEMES.get(packed[0]) if len(kinds) == len(packed) == 1 else None
    return Encoding("gguf", scheme, bool(packed), f"GGUF; matrices of the blocks: {listed}.")
