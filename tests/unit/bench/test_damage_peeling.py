"""A block is planted where it is said to be, and everything else stays."""

from pathlib import Path

import pytest
import torch

from bench.damage.peeling import blocks_of, plant, spearman
from tests.tiny_models import random_model


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("kind", ["copy", "near identity"])
def test_one_block_is_inserted_and_the_others_are_the_models_own(family: str, kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    before = random_model(family, vocab_size=64)
    before.save_pretrained(tmp_path / "before")
    (tmp_path / "before" / "tokenizer.json").write_text("{}")
    plant(tmp_path / "before", tmp_path / "after", kind, 2)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "after", dtype=torch.float32)
    own, made = blocks_of(before), blocks_of(after)
    assert len(made) == len(own) + 1
    for source, target in ((0, 0), (1, 1), (2, 3)):
        assert _same(own[source], made[target])
    assert _same(own[1], made[2]) == (kind == "copy")
    ids = torch.arange(12)[None]
    assert torch.equal(before.get_input_embeddings()(ids), after.get_input_embeddings()(ids))
    if kind == "near identity":
        with torch.no_grad():
            one, other = before(ids).logits, after(ids).logits
        assert float((one - other).norm() / one.norm()) < 0.2


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    tensors = other.state_dict()
    return all(torch.equal(t, tensors[name]) for name, t in one.state_dict().items())


def test_rank_correlation() -> None:
    assert spearman([1.0, 2.0, 3.0], [10.0, 20.0, 90.0]) == pytest.approx(1.0)
    assert spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert spearman([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]) == pytest.approx(0.8)
