"""What a checkpoint is, from its configuration alone: blocks, sizes, and the place of every tensor."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from peelbound.workers.errors import CheckpointError
from peelbound.workers.family import build_empty, find_blocks, read_config, recorded_classes
from peelbound.workers.renames import rename, without_ignorable

_SHOWN = 5  # names listed in an error


@dataclass(frozen=True)
class Placement:
    """Where a tensor of the files belongs.

    Attributes:
        part: 0 for what lies outside the blocks, 1..K for a block.
        name: within a block relative to it (``self_attn.q_proj.weight``), else the model's full parameter name.
    """

    part: int
    name: str


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
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.blocks_name, blocks = find_blocks(model)
        config = model.config
        self.model_type: str = config.model_type
        self.name = type(model).__name__
        self.block_count = len(blocks)
        self.hidden_size: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.tied_embeddings = bool(model.all_tied_weights_keys)
        self.attention_classes = tuple(recorded_classes(model, "attentions"))

    @classmethod
    def from_config_json(cls, config: dict[str, Any]) -> "Architecture":
        """Read the contents of a ``config.json``.

        Raises:
            UnsupportedModel: not a dense decoder-only transformer with independent blocks (slugs ``model-…``).
            CheckpointError: impossible values (slug ``checkpoint-config-invalid``).
        """
        return cls(build_empty(read_config(config)))

    def empty_model(self) -> PreTrainedModel:
        """A copy of the model with parameters on ``meta`` and real buffers, for the caller to fill."""
        return copy.deepcopy(self._model)

    def parameter_count(self) -> int:
        """Number of parameters; tied ones count once."""
        tied = self._model.all_tied_weights_keys
        return sum(p.numel() for name, p in self._model.named_parameters() if name not in tied)

    def place(self, tensors: Mapping[str, tuple[int, ...]]) -> dict[str, Placement]:
        """The place of every tensor in the files.

        Args:
            tensors: name in the files -> shape.

        Returns:
            Name in the files -> place. Tensors that the library knows to be obsolete (rotary tables, causal masks of
            old files) have no place and are absent.

        Raises:
            CheckpointError: ``checkpoint-tensors-missing``, ``checkpoint-tensors-unexpected``,
                ``checkpoint-tensors-duplicate`` or ``checkpoint-tensor-shape``, naming the first few.
            UnsupportedModel: the files need tensors merged or split (slug ``model-conversion``).
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in self._model.state_dict().items()}
        renamed = rename(self._model, tensors)
        missing, unexpected = without_ignorable(
            self._model,
            missing=self._needed(set(shapes), set(renamed.values())),
            unexpected={name for name, target in renamed.items() if target not in shapes},
        )
        if missing:
            raise _refusal("missing", f"The files lack {_listed(missing)} of {self.name}.")
        if unexpected:
            raise _refusal("unexpected", f"{self.name} has no place for {_listed(unexpected)}.")
        placed: dict[str, str] = {}
        for name, target in renamed.items():
            if target not in shapes:
                continue
            if target in placed:
                raise _refusal("duplicate", f"Both {placed[target]} and {name} are {target} of {self.name}.")
            if tuple(tensors[name]) != shapes[target]:
                raise CheckpointError(
                    f"{name} has shape {list(tensors[name])}; config.json calls for {list(shapes[target])}.",
                    remedy="Use the config.json that was saved with these weights.",
                    pointer="/checkpoint",
                    slug="checkpoint-tensor-shape",
                )
            placed[target] = name
        return {name: self._placement(target) for target, name in placed.items()}

    def _needed(self, wanted: set[str], given: set[str]) -> set[str]:
        """What is wanted and not given, where one of several tied tensors stands for all."""
        missing = wanted - given
        ties = self._model.all_tied_weights_keys  # target -> source; all targets of one source share it
        for source in set(ties.values()):
            group = {source} | {target for target, its_source in ties.items() if its_source == source}
            missing -= group if group & given else group - {source}
        return missing

    def _placement(self, target: str) -> Placement:
        prefix = f"{self.blocks_name}."
        if not target.startswith(prefix):
            return Placement(0, target)
        index, name = target.removeprefix(prefix).split(".", 1)
        return Placement(int(index) + 1, name)


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
