import json
import os
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from bench import stdlib_models
from bench.stdlib_corpus import Corpus, library_files, prepare_corpus
from bench.stdlib_models import ModelSize, Recipe, train, train_all, train_missing

MINIATURE = Recipe(
    size=ModelSize(hidden=32, intermediate=64, blocks=3, heads=2),
    steps=20,
    save_at=(10, 20),
    batch=4,
    sequence_length=32,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare_corpus(tmp_path_factory.mktemp("corpus"), vocabulary=300, held_out_files=12, train_files=6)


def block(checkpoint: Path, index: int) -> dict[str, torch.Tensor]:
    """The tensors of block 1..K."""
    prefix = f"model.layers.{index - 1}."
    return {k: v for k, v in load_file(checkpoint / "model.safetensors").items() if k.startswith(prefix)}


def test_the_library_is_there_without_its_tests() -> None:
    files = library_files()
    assert len(files) > 350
    assert not [path for path in files if "test" in path.parts or "site-packages" in path.parts]


def test_held_out_documents_are_files_that_training_does_not_see(corpus: Corpus) -> None:
    documents = [json.loads(line) for line in corpus.held_out_path.read_text().splitlines()]
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    trained_on = tokenizer.decode(corpus.train.tolist(), skip_special_tokens=False)
    assert len(documents) == 12
    assert len({document["source"] for document in documents}) == 12
    assert all(len(document["text"]) >= 300 for document in documents)
    assert all(document["text"] not in trained_on for document in documents)
    assert trained_on.count("<eos>") == 6


def test_training_learns_and_saves_what_the_ecosystem_reads(corpus: Corpus, tmp_path: Path) -> None:
    steps = list(train(corpus, MINIATURE, tmp_path))
    assert [step.step for step in steps] == list(range(1, 21))
    assert [step.checkpoint.name for step in steps if step.checkpoint] == ["step-10", "step-20"]
    assert steps[-1].training_loss < steps[0].training_loss

    saved = json.loads((tmp_path / "training.json").read_text())
    assert saved["training_loss"] == [step.training_loss for step in steps]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "step-20")
    assert model.config.num_hidden_layers == 3
    assert model.config.vocab_size == Tokenizer.from_file(str(tmp_path / "step-20" / "tokenizer.json")).get_vocab_size()


def test_only_the_frozen_block_stays_as_it_was(corpus: Corpus, tmp_path: Path) -> None:
    for _ in train(corpus, replace(MINIATURE, frozen_block=2), tmp_path):
        pass
    early, late = tmp_path / "step-10", tmp_path / "step-20"
    for index in (1, 2, 3):
        same = [torch.equal(old, block(late, index)[name]) for name, old in block(early, index).items()]
        assert len(same) == 9
        assert all(same) if index == 2 else not any(same)


def test_the_same_recipe_gives_the_same_weights_and_leaves_the_random_state(corpus: Corpus, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    for name in ("first", "second"):
        for _ in train(corpus, MINIATURE, tmp_path / name):
            pass
    first, second = (load_file(tmp_path / name / "step-20" / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_block_that_does_not_exist_cannot_be_frozen(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frozen_block 4 is not one of 1\.\.3"):
        next(train(corpus, replace(MINIATURE, frozen_block=4), tmp_path))


def test_models_trained_in_processes_are_those_trained_here_and_one_that_fails_fails_all(
    corpus: Corpus, tmp_path: Path
) -> None:
    # One process: each has to load torch, which takes longer than all the trainings.
    trainings = train_all(
        corpus, {tmp_path / "sound": MINIATURE, tmp_path / "impossible": replace(MINIATURE, frozen_block=9)}, 1
    )
    found = [next(trainings) for _ in range(MINIATURE.steps)]
    with pytest.raises(ValueError, match="frozen_block 9"):
        next(trainings)
    assert {directory.name for directory, _ in found} == {"sound"}
    alone = [step.training_loss for step in train(corpus, MINIATURE, tmp_path / "alone")]
    assert [step.training_loss for _, step in found] == alone


class EndsItsProcess:
    """A training that ends the process that is to run it, as the kernel does where memory runs out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)  # called where this is unpickled, so that the process need not load torch first


def test_a_training_whose_process_dies_fails_all(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdlib_models, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(stdlib_models, "_prepare_process", id)
    monkeypatch.setattr(stdlib_models, "_train_into", EndsItsProcess())
    with pytest.raises(BrokenProcessPool):
        next(train_all(corpus, {tmp_path / "lost": MINIATURE, tmp_path / "waiting": MINIATURE}, 1))


def test_only_models_that_lack_their_last_checkpoint_are_trained(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Path] = []
    monkeypatch.setattr(stdlib_models, "train_all", lambda _, recipes: trained.extend(recipes) or ())
    done, longer, broken_off = (tmp_path / name for name in ("done", "longer", "broken off"))
    for directory in (done, longer):
        list(train(corpus, replace(MINIATURE, steps=2, save_at=(2,)), directory))
    (broken_off / "step-2").mkdir(parents=True)
    (broken_off / "step-2" / "model.safetensors").touch()
    steps = {done: 2, longer: 3, broken_off: 2}
    last = train_missing(corpus, {directory: replace(MINIATURE, steps=count) for directory, count in steps.items()})
    assert last == {done: done / "step-2", longer: longer / "step-3", broken_off: broken_off / "step-2"}
    assert trained == [longer, broken_off]
