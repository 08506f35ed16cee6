"""Random models of many families, a few thousand parameters each, with nothing left at a value that hides a mistake."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

# The families that the audit promises to support.
PROMISED = ("llama", "gpt2", "qwen2", "qwen3", "mistral", "gemma2", "phi3", "opt", "gpt_neox", "olmo2")
# Further ones with something of their own: other attention layouts, parallel halves, scaled residuals, tuples.
FURTHER = (
    "gemma", "gemma3_text", "phi", "cohere", "granite", "stablelm", "starcoder2",
    "falcon", "bloom", "gptj", "mpt", "gpt_neo", "apertus", "smollm3",
)  # fmt: skip

# Mixtures of experts: fused or not in their files, routers of all kinds, dense blocks among them.
MIXTURES = (
    "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss", "deepseek_v3", "phimoe", "jetmoe",
    "llama4_text",
)  # fmt: skip

_LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2_LIKE: dict[str, Any] = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SLIDING = {"sliding_window": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_OWN: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2_LIKE,
    "gptj": {**_GPT2_LIKE, "rotary_dim": 8},
    "mistral": {**_LLAMA_LIKE, **_SLIDING},
    "gemma": {**_LLAMA_LIKE, "head_dim": 8},
    "gemma2": {**_LLAMA_LIKE, **_SLIDING, "head_dim": 8},
    "gemma3_text": {
        **_LLAMA_LIKE,
        **_SLIDING,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "starcoder2": {**_LLAMA_LIKE, **_SLIDING},
    "opt": {**_LLAMA_LIKE, "ffn_dim": 64, "word_embed_proj_dim": 16},
    "granite": {**_LLAMA_LIKE, "residual_multiplier": 0.5, "embedding_multiplier": 3.0, "logits_scaling": 2.0},
    "cohere": {**_LLAMA_LIKE, "logit_scale": 0.25},
    "falcon": {k: v for k, v in _LLAMA_LIKE.items() if k != "num_key_value_heads"},
    "bloom": {"vocab_size": 96, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "mpt": {"vocab_size": 96, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 128},
    "gpt_neo": {
        "vocab_size": 96,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "max_position_embeddings": 128,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
    },
    "mixtral": {**_LLAMA_LIKE, **_SLIDING, "num_local_experts": 4},
    # The second of three blocks is dense.
    "qwen2_moe": {**_LLAMA_LIKE, **_EXPERTS, "shared_expert_intermediate_size": 24, "mlp_only_layers": [1]},
    "qwen3_moe": {**_LLAMA_LIKE, **_EXPERTS, "head_dim": 8, "norm_topk_prob": True},
    "olmoe": {**_LLAMA_LIKE, **_EXPERTS},
    "granitemoe": {**_LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2, "residual_multiplier": 0.5},
    "gpt_oss": {
        **_LLAMA_LIKE,
        **_SLIDING,
        "head_dim": 8,
        "num_local_experts": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    # The first of three blocks is dense; latent attention.
    "deepseek_v3": {
        **_LLAMA_LIKE,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
    "phimoe": {**_LLAMA_LIKE, **_SLIDING, "num_local_experts": 4},
    "jetmoe": {**_LLAMA_LIKE, "kv_channels": 8, "num_key_value_heads": 2, "num_local_experts": 4},
    "llama4_text": {
        **_LLAMA_LIKE,
        "head_dim": 8,
        "intermediate_size_mlp": 48,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "attention_chunk_size": 8,
        "moe_layers": [0, 2],
    },
    "apertus": {**_LLAMA_LIKE, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}


def tiny_config(family: str, **changes: Any) -> dict[str, Any]:
    """The contents of a config.json, as the library would write them."""
    config = AutoConfig.for_model(family, **{**_OWN.get(family, _LLAMA_LIKE), **changes})
    raw: dict[str, Any] = config.to_dict()
    return raw


def random_model(family: str, **changes: Any) -> PreTrainedModel:
    """A model in eval mode whose norms and biases are perturbed too, so that a skipped one shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **{**_OWN.get(family, _LLAMA_LIKE), **changes})
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model
