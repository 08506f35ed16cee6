"""A model's configuration out of a GGUF file's metadata, by the library's own tables.

The tables are transformers' (integrations/ggml.py, GGUF_CONFIG_MAPPING). What they leave out and a model depends on is
added here, each with the key that ggml's docs/gguf.md gives it; what metadata cannot say (how rotary frequencies were
stretched) is refused, and a `config.json` beside the file then says it.
"""

from collections.abc import Mapping
from typing import Any

from transformers.integrations.ggml import GGUF_CONFIG_DEFAULTS_MAPPING, GGUF_CONFIG_MAPPING

from peelbound.workers.checkpoint.gguf.header import GgufHeader
from peelbound.workers.checkpoint.strict_json import quoted
from peelbound.workers.errors import CheckpointError, UnsupportedModel

MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "gpt2": "gpt2",
    "phi3": "phi3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "starcoder2": "starcoder2",
    "stablelm": "stablelm",
    "bloom": "bloom",
    "nemotron": "nemotron",
}
"""The file's architecture → the library's model type: those whose tensors and settings are tested to come out right."""

ROTARY_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Stretched rotary frequencies; the library computes them from the configuration."""

_TIED = ("bloom",)  # as the library: these tie whatever the file holds
_PARTIAL_ROTARY = ("stablelm", "phi3", "nemotron")
_HEAD_DIM = ("llama", "qwen3", "qwen3moe", "gemma2", "gemma3")
_MORE: dict[str, dict[str, str]] = {
    "gpt2": {"context_length": "n_positions", "feed_forward_length": "n_inner"},
    "phi3": {"attention.sliding_window": "sliding_window"},
    "starcoder2": {"rope.freq_base": "rope_theta", "attention.sliding_window": "sliding_window"},
    "stablelm": {"rope.freq_base": "rope_theta"},
    "qwen2moe": {
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    },
    "qwen3moe": {"expert_feed_forward_length": "moe_intermediate_size"},
    "nemotron": {"attention.layer_norm_epsilon": "norm_eps"},
    "gemma2": {
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
}
"""Keys that the library's tables lack."""
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}
"""Blocks of the one model of a family whose attention is scaled by width / heads, and not by the size of a head: no key
says it (llama.cpp, src/models: gemma2 and gemma3 of type 27B)."""


def config_of(header: GgufHeader) -> dict[str, Any]:
    """What would stand in the model's `config.json`.

    Raises:
        UnsupportedModel: ``model-gguf-architecture`` or ``model-gguf-rotary``.
        CheckpointError: ``checkpoint-header-invalid``: a setting is missing or of a wrong kind.
    """
    name, metadata = header.architecture, header.metadata
    if name not in MODEL_TYPES:
        raise UnsupportedModel(
            f"{header.file} holds the architecture {quoted(name)}; read are {', '.join(sorted(MODEL_TYPES))}.",
            slug="model-gguf-architecture",
            remedy="Audit the model's safetensors instead.",
            pointer="/checkpoint",
        )
    own = {key.removeprefix(f"{name}."): value for key, value in metadata.items() if key.startswith(f"{name}.")}
    names = {tensor.name: tensor for tensor in header.tensors}
    _refuse_unsaid(header, own, set(names))
    model_type = MODEL_TYPES[name]
    table = model_type.removesuffix("_text")
    config: dict[str, Any] = dict(GGUF_CONFIG_DEFAULTS_MAPPING.get(table, {}))
    theirs: Any = GGUF_CONFIG_MAPPING[table]
    targets: dict[str, str | None] = {**theirs, **_MORE.get(name, {})}
    for key, target in targets.items():
        if target is not None and key in own:
            if not isinstance(own[key], int | float | str):
                raise _invalid(header, f"{name}.{key} is {quoted(own[key])} and not one value")
            config[target] = own[key]
    if name == "gpt2":
        config.pop("n_ctx", None)
        config.pop("feed_forward_length", None)
    embedding = names.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise _invalid(header, "it has no embedding (token_embd.weight)")
    config |= {
        "model_type": model_type,
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": name in _TIED or "output.weight" not in names,
    }
    for role, key in (("eos", "eos_token_id"), ("bos", "bos_token_id"), ("pad", "padding_token_id")):
        token = metadata.get(f"tokenizer.ggml.{key}")
        if token is not None and type(token) is not int:
            raise _invalid(header, f"tokenizer.ggml.{key} is no number")
        config[f"{role}_token_id"] = token
    if config.get("sliding_window") == 0:  # llama.cpp's way to say that there is none (Phi-4)
        config["sliding_window"] = None
    _add_heads(header, name, own, config)
    _add_biases(name, set(names), config)
    return config


def _refuse_unsaid(header: GgufHeader, own: Mapping[str, Any], names: set[str]) -> None:
    stretched = own.get("rope.scaling.type", "none") != "none" or "rope.scale_linear" in own
    if stretched or names.intersection(ROTARY_TENSORS):
        raise UnsupportedModel(
            f"{header.file} stretches its rotary frequencies, and its metadata do not say how transformers does it.",
            slug="model-gguf-rotary",
            remedy="Give a directory with this one file and the model's original config.json.",
            pointer="/checkpoint",
        )
    if own.get("expert_count") and not header.architecture.endswith("moe"):
        raise UnsupportedModel(
            f"{header.file} is a mixture of experts under the architecture {header.architecture}; it is not read.",
            slug="model-gguf-architecture",
            remedy="Audit the model's safetensors instead.",
            pointer="/checkpoint",
        )


def _add_heads(header: GgufHeader, name: str, own: Mapping[str, Any], config: dict[str, Any]) -> None:
    """The width of a head, and the share of it that is rotated."""
    heads, width = own.get("attention.head_count"), own.get("embedding_length")
    if type(heads) is not int or type(width) is not int or heads < 1:
        raise _invalid(header, f"it has {quoted(heads)} attention heads and a width of {quoted(width)}")
    size = own.get("attention.key_length", width // heads)
    rotated = own.get("rope.dimension_count", size)
    if type(size) is not int or type(rotated) is not int or not 0 < rotated <= size:
        raise _invalid(header, f"its heads have {quoted(size)} channels, {quoted(rotated)} of them rotated")
    if name in _HEAD_DIM:
        config["head_dim"] = size
    if name in _SCALED_BY_WIDTH:
        by_width = own.get("block_count") == _SCALED_BY_WIDTH[name]
        config["query_pre_attn_scalar"] = width // heads if by_width else size
    if name in _PARTIAL_ROTARY:
        config["partial_rotary_factor"] = rotated / size
    elif rotated != size:
        raise UnsupportedModel(
            f"{header.file} rotates {rotated} of the {size} channels of a head, which {config['model_type']} does not.",
            slug="model-gguf-rotary",
            remedy="Give a directory with this one file and the model's original config.json.",
            pointer="/checkpoint",
        )


def _add_biases(name: str, names: set[str], config: dict[str, Any]) -> None:
    if name == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in names
        config["mlp_bias"] = "blk.0.ffn_down.bias" in names
    if name == "stablelm":  # as the library
        config["use_qkv_bias"] = "blk.0.attn_q.bias" in names
        config["use_parallel_residual"] = not any(".ffn_norm." in tensor for tensor in names)


def _invalid(header: GgufHeader, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{header.file} is not a complete model: {problem}.",
        slug="checkpoint-header-invalid",
        remedy="Convert the model again.",
        pointer="/checkpoint",
    )
