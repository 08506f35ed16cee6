"""What a checkpoint is, from its configuration alone: blocks, sizes, and the place of every tensor."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import PreTrainedModel

from peelbound.workers.composites import TEXT_MODELS, text_names
from peelbound.workers.errors import CheckpointError
from peelbound.workers.family import build_empty, find_blocks, read_config, recorded_classes
from peelbound.workers.linear_maps import LinearMap, linear_maps
from peelbound.workers.positions import most_positions, stated_positions
from peelbound.workers.renames import Conversion, Origin, origins, without_ignorable

_SHOWN = 5  # names listed in an error


@dataclass(frozen=True)
class Placement:
    """A tensor of the model, and what of the files it is made of.

    Attributes:
        part: 0 for what lies outside the blocks, 1..K for a block.
        name: within a block relative to it (``self_attn.q_proj.weight``), else the model's full parameter name.
        stored: names in the files: one, or those that `conversion` makes it of, in its order.
        conversion: None for one that is taken as it is.
    """

    part: int
    name: str
    stored: tuple[str, ...]
    conversion: Conversion | None = None


class Architecture:
    """An empty model of a configuration: no weights, a few kilobytes per block.

    Attributes:
        model_type: the library's name of the family, e.g. ``llama``.
        name: the library's class, e.g. ``LlamaForCausalLM``.
        block_count: K.
        hidden_size: width D of the residual stream.
        vocab_size: V.
        tied_embeddings: whether the configuration ties the output projection to the embedding.
        blocks_name: the model's name of its list of blocks.
        attention_classes: what the library records as attention in this family.
        stated_positions: the longest sequence that the configuration says the model is made for, if it says so.
        most_positions: the longest that it can run at all; None where positions are computed.
        text_of: the `model_type` of the composite whose text model this is; None for a model that stands alone.
    """

    def __init__(self, model: PreTrainedModel, text_of: str | None = None) -> None:
        self._model = model
        self.text_of = text_of
        self.blocks_name, blocks = find_blocks(model)
        config = model.config
        self.model_type: str = config.model_type
        self.name = type(model).__name__
        self.block_count = len(blocks)
        self.hidden_size: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.tied_embeddings = bool(model.all_tied_weights_keys)
        self.stated_positions = stated_positions(model)
        self.most_positions = most_positions(model)
        self.attention_classes = tuple(recorded_classes(model, "attentions"))
        self._routers = tuple(recorded_classes(model, "router_logits"))

    @classmethod
    def from_config_json(cls, config: dict[str, Any]) -> "Architecture":
        """Read the contents of a ``config.json``.

        Raises:
            UnsupportedModel: not a decoder-only transformer with independent blocks (slugs ``model-…``).
            CheckpointError: impossible values (slug ``checkpoint-config-invalid``).
        """
        return _read(json.dumps(config, sort_keys=True))

    def empty_model(self) -> PreTrainedModel:
        """A copy of the model with parameters on ``meta`` and real buffers, for the caller to fill."""
        return copy.deepcopy(self._model)

    def settings(self) -> dict[str, Any]:
        """The library's configuration of the model, entries by name, defaults included."""
        settings: dict[str, Any] = self._model.config.to_dict()
        return settings

    def parameter_count(self) -> int:
        """Number of parameters; tied ones count once."""
        tied = self._model.all_tied_weights_keys
        return sum(p.numel() for name, p in self._model.named_parameters() if name not in tied)

    def tensor_names(self) -> frozenset[str]:
        """The model's own names of its parameters and saved buffers; files may have others."""
        return frozenset(self._model.state_dict())

    def linear_maps(self, index: int) -> tuple[LinearMap, ...]:
        """The weights of block `index` (1..K) that are linear maps: what is quantised; blocks may differ in kind."""
        block = self._model.get_submodule(f"{self.blocks_name}.{index - 1}")
        return linear_maps(block, self.hidden_size, self._routers)

    def place(self, tensors: Mapping[str, tuple[int, ...]]) -> list[Placement]:
        """What the model's tensors are made of.

        Args:
            tensors: name in the files -> shape.

        Returns:
            Every tensor of the model but tied ones that the files lack. Tensors of the files that the library knows to
            be obsolete (rotary tables, causal masks of old files) are in none, nor are those of a composite's other
            models.

        Raises:
            CheckpointError: ``checkpoint-tensors-missing``, ``checkpoint-tensors-unexpected``,
                ``checkpoint-tensors-duplicate`` or ``checkpoint-tensor-shape``, naming the first few.
            UnsupportedModel: the files need conversions that only a whole model can make (slug ``model-conversion``).
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in self._model.state_dict().items()}
        files = text_names(tensors) if self.text_of else {name: name for name in tensors}
        found = origins(self._model, {name: tensors[stored] for name, stored in files.items()})
        strangers = {origin.target: origin.names[0] for origin in found if origin.target not in shapes}
        missing, unexpected = without_ignorable(
            self._model,
            missing=self._needed(set(shapes), {origin.target for origin in found}),
            unexpected=set(strangers.values()),
        )
        if missing:
            raise _refusal("missing", f"The files lack {_listed(missing)} of {self.name}.")
        if unexpected:
            raise _refusal("unexpected", f"{self.name} has no place for {_listed(unexpected)}.")
        placed: dict[str, Origin] = {}
        for origin in found:
            if origin.target not in shapes:
                continue
            if other := placed.get(origin.target):
                both = f"{_summed(other.names)} and {_summed(origin.names)}"
                raise _refusal("duplicate", f"Both {both} are {origin.target} of {self.name}.")
            if origin.shape != shapes[origin.target]:
                raise CheckpointError(
                    f"{_summed(origin.names)} has shape {list(origin.shape)}; "
                    f"config.json calls for {list(shapes[origin.target])}.",
                    remedy="Use the config.json that was saved with these weights.",
                    pointer="/checkpoint",
                    slug="checkpoint-tensor-shape",
                )
            placed[origin.target] = origin
        return [self._placement(origin, tuple(files[name] for name in origin.names)) for origin in placed.values()]

    def _needed(self, wanted: set[str], given: set[str]) -> set[str]:
        """What is wanted and not given, where one of several tied tensors stands for all."""
        missing = wanted - given
        ties = self._model.all_tied_weights_keys  # target -> source; all targets of one source share it
        for source in set(ties.values()):
            group = {source} | {target for target, its_source in ties.items() if its_source == source}
            missing -= group if group & given else group - {source}
        return missing

    def _placement(self, origin: Origin, stored: tuple[str, ...]) -> Placement:
        prefix = f"{self.blocks_name}."
        if not origin.target.startswith(prefix):
            return Placement(0, origin.target, stored, origin.conversion)
        index, name = origin.target.removeprefix(prefix).split(".", 1)
        return Placement(int(index) + 1, name, stored, origin.conversion)


@lru_cache(maxsize=2)
def _read(config: str) -> Architecture:
    """The last ones are kept: the checkpoints of a run share their configuration, and building takes long when deep."""
    raw = json.loads(config)
    model_type = raw.get("model_type")
    return Architecture(build_empty(read_config(raw)), text_of=model_type if model_type in TEXT_MODELS else None)


def _summed(names: tuple[str, ...]) -> str:
    """One name, or the first of several that become one tensor."""
    return names[0] if len(names) == 1 else f"{names[0]} with {len(names) - 1} others"


def _listed(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _refusal(kind: str, detail: str) -> CheckpointError:
    return CheckpointError(
        detail,
        remedy="Save the whole model with save_pretrained, next to its own config.json.",
        pointer="/checkpoint",
        slug=f"checkpoint-tensors-{kind}",
    )
