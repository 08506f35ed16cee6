"""GGUF files of tiny models, written by gguf-py's own writer, as llama.cpp's convert_hf_to_gguf.py would write them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

ARCHITECTURES = {
    "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2", "phi3": "phi3", "gemma2": "gemma2",
    "gemma3_text": "gemma3", "starcoder2": "starcoder2", "stablelm": "stablelm", "bloom": "bloom",
    "nemotron": "nemotron", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
}  # fmt: skip
"""The library's model type → the format's architecture."""

_TURNED = ("attn_qkv.weight", "ffn_up.weight", "ffn_down.weight", "attn_output.weight")


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    kind: str = "F32",
    metadata: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    sliding_window: int | None = None,
    shared_gate: tuple[int, ...] = (-1,),
) -> dict[str, NDArray[np.float32]]:
    """Write the model; matrices of the blocks in the type `kind`, all else in F32.

    Args:
        path: the file.
        model: of one of `ARCHITECTURES`.
        kind: a type that gguf-py can quantise.
        metadata: further keys, as strings.
        tokenizer: `tokens`, `merges`, `types` of a byte-level tokenizer.
        sliding_window: instead of the model's; 0 says that there is none.
        shared_gate: in which shape the gate of a shared expert is stored: older converters made a row of it.

    Returns:
        What was written, before quantisation, by the file's names.
    """
    config = model.config
    name = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, name)
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(getattr(config, "max_position_embeddings", None) or 128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    if "head_dim" in config.to_dict():
        writer.add_key_length(size)
        writer.add_value_length(size)
    if name not in ("gpt2", "bloom"):
        rope = config.rope_parameters
        rope = rope.get("full_attention", rope)
        writer.add_rope_dimension_count(int(size * rope.get("partial_rotary_factor", 1.0)))
        writer.add_rope_freq_base(rope["rope_theta"])
    if getattr(config, "rms_norm_eps", None):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        names = ("layer_norm_epsilon", "norm_epsilon", "layer_norm_eps", "norm_eps")
        writer.add_layer_norm_eps(next(getattr(config, n) for n in names if hasattr(config, n)))
    if sliding_window is not None or getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window if sliding_window is None else sliding_window)
    if name.endswith("moe"):
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        if name == "qwen2moe":
            writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokenizer["tokens"])
        writer.add_token_merges(tokenizer["merges"])
        writer.add_token_types(tokenizer["types"])
    written = _tensors(model, name, heads, groups)
    for key, values in written.items():
        if key.endswith("ffn_gate_inp_shexp.weight"):
            values = values.reshape(shared_gate)
        packed = key.startswith("blk.") and values.ndim > 1 and "norm" not in key
        number = gguf.GGMLQuantizationType[kind if packed else "F32"]
        values = np.ascontiguousarray(values)
        writer.add_tensor(key, gguf.quantize(values, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def _tensors(model: PreTrainedModel, name: str, heads: int, groups: int) -> dict[str, NDArray[np.float32]]:
    numbers = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(numbers[name], model.config.num_hidden_layers)
    written: dict[str, NDArray[np.float32]] = {}
    tied = model.all_tied_weights_keys
    for key, tensor in model.state_dict().items():
        if key in tied:
            continue
        values = tensor.float().numpy()
        stem, dot, kind = key.rpartition(".")
        if stem.endswith(".mlp.experts"):
            block = stem.removeprefix("model.layers.").partition(".")[0]
            if kind == "gate_up_proj":
                gate, up = np.split(values, 2, axis=1)
                written[f"blk.{block}.ffn_gate_exps.weight"] = gate
                written[f"blk.{block}.ffn_up_exps.weight"] = up
            else:
                written[f"blk.{block}.ffn_down_exps.weight"] = values
            continue
        found = table.get_name(stem) or table.get_name(stem.partition(".")[2])
        assert found, key
        written[f"{found}{dot}{kind}"] = _converted(values, f"{found}{dot}{kind}", name, heads, groups)
    return written


def _converted(values: NDArray[np.float32], key: str, name: str, heads: int, groups: int) -> NDArray[np.float32]:
    """What the converters change (llama.cpp, convert_hf_to_gguf.py: LlamaModel.permute, GPT2Model, Gemma2Model, …)."""
    if name == "llama" and (".attn_q." in key or ".attn_k." in key):
        count = heads if ".attn_q." in key else groups
        return values.reshape(count, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    if name == "gpt2" and key.endswith(_TURNED):
        return values.T
    if name in ("gemma2", "gemma3", "nemotron") and key.endswith("norm.weight"):
        return values + 1
    if name == "bloom" and "attn_qkv" in key:
        # [heads, 3, size] rows become [3, heads, size].
        return values.reshape(heads, 3, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)
    return values


def some_tokens() -> dict[str, Any]:
    """A byte-level tokenizer of the 96 tokens that the tiny models have."""
    letters = [chr(c) for c in range(33, 33 + 90)]
    tokens = [*letters, "Ġ", "th", "the", "Ġthe", "<|end|>", "Ċ"]
    return {"tokens": tokens, "merges": ["t h", "th e", "Ġ the"], "types": [1] * 94 + [3, 1]}
