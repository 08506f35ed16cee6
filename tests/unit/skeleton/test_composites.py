"""Composites whose text model is audited: the whole composite, given text, says what must come out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedModel

from peelbound.workers.architecture import Architecture
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.errors import CheckpointError
from tests.tiny_models import tiny_config
from tests.unit.checkpoint.conftest import Files
from tests.unit.checkpoint.losses import audited_loss, ids_of

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FILE = "model.safetensors"


def composite(directory: Path, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    text = tiny_config("gemma3_text")
    config = Gemma3Config(
        text_config=text, vision_config=VISION, mm_tokens_per_image=4, image_token_index=95, **changes
    )
    model: PreTrainedModel = Gemma3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(directory)
    return model


def renamed(directory: Path, old: str, new: str) -> None:
    weights = {name.replace(old, new, 1): weight for name, weight in load_file(directory / FILE).items()}
    save_file(weights, directory / FILE)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("named", ["language_model.model.", "model.language_model."])
def test_the_text_model_has_the_loss_of_the_composite(tmp_path: Path, tied: bool, named: str) -> None:
    model = composite(tmp_path, tie_word_embeddings=tied)
    files = load_file(tmp_path / FILE)
    (written,) = {n for n in ("language_model.model.", "model.language_model.") if any(n in name for name in files)}
    renamed(tmp_path, written, named)
    checkpoint = Checkpoint.open(Files.under(tmp_path))
    assert checkpoint.architecture.text_of == "gemma3"
    assert checkpoint.architecture.tied_embeddings == tied
    ids = ids_of(checkpoint)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        expected = float(torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()))
    assert audited_loss(checkpoint) == pytest.approx(expected, abs=3e-6)
    text = [p for name, p in model.named_parameters() if "vision" not in name and "projector" not in name]
    assert checkpoint.parameters == sum(p.numel() for p in text)
    assert checkpoint.total_bytes == 4 * checkpoint.parameters


def test_tensors_of_no_part_of_the_composite_are_refused(tmp_path: Path) -> None:
    composite(tmp_path)
    save_file(load_file(tmp_path / FILE) | {"language_model.model.layers.9.x": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(CheckpointError, match=r"layers\.9\.x") as caught:
        Checkpoint.open(Files.under(tmp_path))
    assert caught.value.slug == "checkpoint-tensors-unexpected"


@pytest.mark.parametrize("text", [None, [], {"model_type": "llama"}])
def test_a_composite_without_its_text_model_is_refused(text: Any) -> None:
    config = json.loads(Gemma3Config().to_json_string()) | {"text_config": text}
    with pytest.raises(CheckpointError, match="text_config of a gemma3_text") as caught:
        Architecture.from_config_json(config)
    assert caught.value.slug == "checkpoint-config-invalid"


def test_a_text_model_of_its_own_is_no_composite() -> None:
    assert Architecture.from_config_json(tiny_config("gemma3_text")).text_of is None
