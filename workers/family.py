"""From a checkpoint's ``config.json`` to an empty model of the library's own class, refusing what cannot be peeled.

Nothing here knows a family by name: what a block is, and whether the blocks stand on their own, is read off the
configuration and the module tree. No code of the checkpoint's is run and nothing is fetched.
"""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from peelbound.workers.composites import text_config
from peelbound.workers.errors import CheckpointError, UnsupportedModel

# The largest values that are read as meant, by the library's canonical name (a family's own name for it is found
# through its attribute_map). Far above every published model, far below what would exhaust memory on construction.
_LIMITS = {
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**14,
    "vocab_size": 2**24,
    "max_position_embeddings": 2**24,
}
# The same for numbers of experts, which may be 0 or absent where a family's blocks can be dense.
_MOST_EXPERTS = 2**14
# Numbers that some family makes a list of so many items from before anything of the model is built.
_LISTED = ("first_k_dense_replace", "num_mtp_layers", "num_nextn_predict_layers")
_MOST_LISTED = 2**12
_SHARES = ("partial_rotary_factor", "rotary_pct", "rotary_percent", "rope_pct")
# Layers times heads: one family makes a module for each head of each layer. Published models have at most 20,000.
_MOST_HEADS_IN_ALL = 2**16
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")
# Bounds on the whole, whatever made it large.
_MOST_PARAMETERS = 2**42
_MOST_BUFFER_BYTES = 2**31
_MOST_DETAIL = 1000
_SHARING = ("num_kv_shared_layers", "hidden_size_per_layer_input", "hybrid_layer_ids", "num_mem_blocks")
_REMEDY = "Audit a decoder-only transformer of a family that transformers knows; docs/families.md lists them."
# Of attention and experts the machine's choice is made here, not where the checkpoint was written; auto_map names code.
# What is packed is unpacked by `checkpoint/encoding.py`, so the model is that of dense weights. Labels are a
# classifier's, and the library makes a dictionary of `num_labels` names.
_NOT_OURS = (
    "num_labels",
    "id2label",
    "label2id",
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
    "quantization_config",
)


def read_config(raw: dict[str, Any]) -> PreTrainedConfig:
    """The library's configuration object for the contents of a ``config.json``; of some composites the text model's.

    Raises:
        UnsupportedModel: unknown or non-decoder family, remote code.
        CheckpointError: values that no model can have (slug ``checkpoint-config-invalid``).
    """
    raw = text_config(raw)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise _invalid("config.json names no model_type.")
    if model_type not in CONFIG_MAPPING:
        if "auto_map" in raw:
            raise UnsupportedModel(
                f"config.json asks to run the checkpoint's own code (auto_map) for model_type {model_type!r}.",
                remedy=f"Code from a checkpoint is never run. {_REMEDY}",
                pointer="/checkpoint",
                slug="model-remote-code",
            )
        raise _unsupported("model-unknown", f"model_type {model_type!r} is unknown to this version of transformers.")
    if raw.get("is_encoder_decoder") or model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise _not_decoder(model_type)
    config_class = CONFIG_MAPPING[model_type]
    _check_sizes(raw, config_class.attribute_map)
    kept = {name: _with_infinities(value) for name, value in raw.items() if name not in _NOT_OURS}
    try:
        config = config_class.from_dict(kept)
    except Exception as error:  # the library's validators raise whatever they like: the configuration is at fault
        raise _invalid(f"transformers refuses config.json of {model_type!r}: {error}") from error
    encoder = model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if config.is_encoder_decoder or encoder:
        raise _not_decoder(model_type)
    if _composite(config):
        raise _unsupported("model-not-decoder", f"model_type {model_type!r} is a composite of several models.")
    _check_independent(config)
    config.use_cache = False
    return config


def _composite(config: PreTrainedConfig) -> bool:
    try:
        return config.get_text_config() is not config
    except ValueError:  # it has several
        return True


def _with_infinities(value: Any) -> Any:
    """A value of config.json, where the library writes what JSON has no number for as ``{"__float__": "Infinity"}``."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
            return float(value["__float__"])
        return {name: _with_infinities(inner) for name, inner in value.items()}
    return [_with_infinities(inner) for inner in value] if isinstance(value, list) else value


def build_empty(config: PreTrainedConfig) -> PreTrainedModel:
    """The causal language model of a configuration with every parameter on ``meta`` and every buffer real.

    Buffers such as the rotary frequencies are computed by constructors and are in no file, so they must be real; under
    ``torch.device("meta")`` they would be lost without an error. Attention runs through ``sdpa`` where the library
    says that the family supports it, else eager: that is what the library chooses when nothing is asked for. Experts
    run eagerly, one after the other: the library's default sorts tokens by expert and leaves their order among equals
    to the device.
    """
    with torch.device("meta"), no_init_weights():
        _check_total(_construct(config))
    # Constructors that draw noise draw it from a copy of the generator: reading a config disturbs no one.
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        model = _construct(config)
    model.requires_grad_(False).eval()
    return model


def _construct(config: PreTrainedConfig) -> PreTrainedModel:
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, experts_implementation="eager"
        )
    except Exception as error:  # constructors fail in as many ways as there are families: the configuration is at fault
        raise _invalid(f"transformers cannot build {config.model_type!r} from config.json: {error}") from error
    return model


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The one list of decoder blocks in a model, and its name, by the library's own marks.

    Raises:
        UnsupportedModel: none or several lists qualify, or the blocks are not independent.
    """
    names = set(model._no_split_modules or ())
    classes = tuple(recorded_classes(model, "hidden_states"))
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 0
        and all(type(item).__name__ in names or isinstance(item, classes) for item in module)
    ]
    if len(found) != 1:
        raise _unsupported(
            "model-blocks-unclear",
            f"{type(model).__name__} has {len(found)} lists of blocks, not one: {[name for name, _ in found]}.",
        )
    name, blocks = found[0]
    _check_blocks(model, name, blocks)
    return name, blocks


def recorded_classes(model: PreTrainedModel, key: str) -> Iterator[type[nn.Module]]:
    """The module classes that the library itself records as ``key`` (``hidden_states``: blocks, ``attentions``)."""
    for part in model.modules():
        if not isinstance(part, PreTrainedModel):
            continue
        marks = (part._can_record_outputs or {}).get(key, ())
        for mark in marks if isinstance(marks, list | tuple) else (marks,):
            target = getattr(mark, "target_class", mark)
            if isinstance(target, type):
                yield target


def _check_sizes(raw: dict[str, Any], attribute_map: dict[str, str]) -> None:
    sizes: dict[str, int] = {}
    for name, limit in _LIMITS.items():
        for key in {name, attribute_map.get(name, name)}:
            value = raw.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
                raise _invalid(f"config.json: {key} = {value!r} is not a whole number from 1 to {limit}.")
            sizes[name] = value
    for name in _EXPERTS:
        value = raw.get(name)
        if isinstance(value, int) and not 0 <= value <= _MOST_EXPERTS:
            raise _invalid(f"config.json: {name} = {value!r} is not a number of experts from 0 to {_MOST_EXPERTS}.")
    counts = {name: raw.get(name) for name in _LISTED}
    counts |= {"attention_types": _longest(raw.get("attention_types"))}
    for name, value in counts.items():
        if isinstance(value, int) and value > _MOST_LISTED:
            raise _invalid(f"config.json: {name} has {value!r}; at most {_MOST_LISTED} layers are read.")
    layers = sizes.get("num_hidden_layers", 1)
    if layers * sizes.get("num_attention_heads", 1) > _MOST_HEADS_IN_ALL:
        raise _invalid(f"config.json calls for more than {_MOST_HEADS_IN_ALL} attention heads over all layers.")
    _check_rotary(raw)
    heads, width, groups = (sizes.get(n) for n in ("num_attention_heads", "hidden_size", "num_key_value_heads"))
    if heads and width and "head_dim" not in sizes and width % heads:
        raise _invalid(f"config.json: hidden_size {width} is not divisible by {heads} attention heads.")
    if heads and groups and heads % groups:
        raise _invalid(f"config.json: {heads} attention heads are not divisible by {groups} key-value heads.")


def _check_rotary(section: dict[str, Any]) -> None:
    """The share of a head's channels that is rotated, wherever the families say it."""
    for name, value in section.items():
        if isinstance(value, dict):
            _check_rotary(value)
        elif name in _SHARES and isinstance(value, int | float) and not 0 <= value <= 1:
            raise _invalid(f"config.json: {name} = {value!r} is no share of a head.")


def _longest(types: Any) -> int:
    """The largest number in gpt_neo's `[[["global", "local"], 12]]`: how often a pattern of layers is repeated."""
    if isinstance(types, list):
        return max(map(_longest, types), default=0)
    return types if isinstance(types, int) else 0


def _check_total(model: PreTrainedModel) -> None:
    parameters = sum(p.numel() for p in model.parameters())
    buffer_bytes = sum(b.numel() * b.element_size() for b in model.buffers())
    if parameters > _MOST_PARAMETERS or buffer_bytes > _MOST_BUFFER_BYTES:
        raise _invalid(f"config.json calls for {parameters} parameters and {buffer_bytes} bytes of tables.")


def _check_independent(config: PreTrainedConfig) -> None:
    for name in _SHARING:
        if value := getattr(config, name, None):
            raise _shared(f"Blocks of {config.model_type} share state ({name} = {value}).")


def _check_blocks(model: PreTrainedModel, name: str, blocks: nn.ModuleList) -> None:
    family = model.config.model_type
    if model._is_stateful:
        raise _shared(f"Blocks of {family} are recurrent.")
    prefix = f"{name}."
    for pair in model.all_tied_weights_keys.items():
        if any(key.startswith(prefix) for key in pair):
            raise _shared(f"Blocks of {family} share parameters: {pair[0]} is {pair[1]}.")
    modules = [module for block in blocks for module in block.modules()]
    if len({id(module) for module in modules}) < len(modules):
        raise _shared(f"Blocks of {family} share modules.")
    attention = tuple(recorded_classes(model, "attentions"))
    for index, block in enumerate(blocks, start=1):
        inside = list(block.named_modules())[1:]
        if any(getattr(module, "is_causal", True) is False for _, module in inside):
            raise _not_decoder(family)
        if any(isinstance(m, nn.Conv1d) for _, m in inside) or not any(is_attention(m, attention) for _, m in inside):
            raise _shared(f"Block {index} of {family} is recurrent or convolutional, not attention alone.")


def is_attention(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is the attention of a block: recorded as such by the library, or named so."""
    return isinstance(module, classes) or type(module).__name__.endswith("Attention")


def _invalid(detail: str) -> CheckpointError:
    return CheckpointError(
        _bounded(detail),
        remedy="Check config.json against the one that the model was trained with.",
        pointer="/checkpoint",
        slug="checkpoint-config-invalid",
    )


def _unsupported(slug: str, detail: str) -> UnsupportedModel:
    return UnsupportedModel(_bounded(detail), remedy=_REMEDY, pointer="/checkpoint", slug=slug)


def _bounded(detail: str) -> str:
    """It quotes a configuration and what the library says of it, either of which may be megabytes long."""
    return detail if len(detail) <= _MOST_DETAIL else f"{detail[:_MOST_DETAIL]}…"


def _shared(detail: str) -> UnsupportedModel:
    return _unsupported("model-shared-state", detail)


def _not_decoder(model_type: str) -> UnsupportedModel:
    return _unsupported("model-not-decoder", f"model_type {model_type!r} is not a decoder-only language model.")
