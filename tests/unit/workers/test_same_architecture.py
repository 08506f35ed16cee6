"""Which checkpoints may lend each other their blocks."""

from typing import Any

import pytest

from peelbound.workers.architecture import Architecture
from peelbound.workers.errors import RequestError
from peelbound.workers.same_architecture import differences, require_same
from tests.tiny_models import tiny_config


def llama(family: str = "llama", **changes: Any) -> Architecture:
    return Architecture.from_config_json(tiny_config(family) | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"torch_dtype": "bfloat16", "transformers_version": "4.40.0", "_name_or_path": "elsewhere"},
        {"quantization_config": {"quant_method": "bitnet"}},
        {"tie_word_embeddings": True, "eos_token_id": [1, 2], "use_cache": False},
    ],
)
def test_what_no_block_depends_on_may_differ(changes: dict[str, Any]) -> None:
    assert differences(llama(), llama(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"intermediate_size": 48}, "intermediate_size is 48"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001"),
        ({"vocab_size": 50}, "vocab_size is 50"),
    ],
)
def test_what_blocks_compute_with_may_not(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        require_same(llama(), llama(**changes))
    assert (refused.value.slug, refused.value.pointer) == ("request-baseline-architecture", "/baseline")


def test_another_family_is_named() -> None:
    assert differences(llama(), llama("gpt2")) == ["GPT2LMHeadModel is no LlamaForCausalLM"]
