"""Families that come in several kinds: alibi or rotary, one key head or many, halves in parallel or in turn."""

from pathlib import Path
from typing import Any

import pytest
import torch

from peelbound.workers.checkpoint.checkpoint import Checkpoint
from tests.tiny_models import random_model
from tests.unit.checkpoint.conftest import Files
from tests.unit.checkpoint.losses import audited_loss, ids_of


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("falcon", {"alibi": True}),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        ("falcon", {"multi_query": False, "parallel_attn": False}),
        ("mpt", {"attn_config": {"alibi": True, "clip_qkv": 0.5}}),
        ("bloom", {"apply_residual_connection_post_layernorm": True}),
        ("gemma3_text", {"layer_types": ["full_attention"] * 3}),
        ("qwen2_moe", {"mlp_only_layers": [], "decoder_sparse_step": 2}),
        ("olmoe", {"norm_topk_prob": True, "clip_qkv": 0.5}),
    ],
    ids=str,
)
def test_each_kind_has_the_loss_of_the_whole_model(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    model = random_model(family, **settings)
    model.save_pretrained(tmp_path)
    checkpoint = Checkpoint.open(Files.under(tmp_path))
    ids = ids_of(checkpoint)
    with torch.no_grad():
        expected = float(model(input_ids=ids, labels=ids, use_cache=False).loss)
    assert audited_loss(checkpoint) == pytest.approx(expected, abs=3e-6)
