"""Small models, LLaMA-style unless asked otherwise, trained on the Python standard library's own source.

A model of six blocks takes about a minute.

A block can be left out of training by mistake (`frozen_block`): it stays at its random initialisation, close to the
identity, and the other blocks learn around it. The loss curve hardly shows it; the audit should.
"""

import json
import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from bench.muon import Muon
from bench.stdlib_corpus import END_ID, Corpus
from peelbound.workers.linear_maps import linear_maps
from peelbound.workers.quantisers.activations import round_inputs
from peelbound.workers.quantisers.quantise import quantise
from peelbound.workers.quantisers.scheme import Scheme

_SMOOTHING_STEPS = 20
_WARMUP_STEPS = 20
_SMALLEST_RATE = 0.02
_WRITTEN_LAST = "tokenizer.json"
"""Of a checkpoint's files."""
_ADDING = ("o_proj.weight", "down_proj.weight", "c_proj.weight")
"""What writes into the residual stream, in all families here."""


class Family(StrEnum):
    """The library's class that a model is built from."""

    LLAMA = "llama"
    GPT2 = "gpt2"
    """LayerNorm, learned positions, biases, an MLP without a gate; `intermediate` is not used."""
    QWEN3 = "qwen3"
    """As LLaMA, with normed queries and keys and half as many key-value heads."""


@dataclass(frozen=True)
class ModelSize:
    """Shape of the model."""

    hidden: int = 128
    intermediate: int = 352
    blocks: int = 6
    heads: int = 4


@dataclass(frozen=True)
class Recipe:
    """How one model is trained: warm-up and cosine decay."""

    size: ModelSize = ModelSize()
    family: Family = Family.LLAMA
    near_identity: bool = True
    """Whether what a block adds starts at 1/(2K) of the library's usual initialisation."""
    muon: bool = True
    """Muon for the blocks' matrices; else AdamW throughout."""
    frozen_block: int | None = None
    """1..K: this block stays at its random initialisation."""
    scheme: str | None = None
    """Quantisation-aware training of the blocks' linear maps in this weight class (`ternary`, `int4-g32+a8`, …)."""
    full_maps: tuple[str, ...] = ()
    """With a scheme: linear maps that stay in full precision, by how their names end (`q_proj.weight`)."""
    save_latent: bool = True
    """With a scheme: whether the full-precision latent weights are saved, or what they are rounded to."""
    steps: int = 300
    save_at: tuple[int, ...] = (100, 200, 300)
    batch: int = 16
    sequence_length: int = 128
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True)
class TrainingStep:
    """One step of training that is done."""

    step: int
    training_loss: float
    """Mean over the last steps of the loss on their batches, in nats per token."""
    checkpoint: Path | None
    """The Hugging Face checkpoint saved at this step, if any."""


_PATIENCE_SECONDS = 1.0
"""Without a step from any training, before it is asked whether one was lost."""

_Sent = tuple[Path, TrainingStep | None]
"""The directory of a training and a step of it; None after its last."""


def train(corpus: Corpus, recipe: Recipe, directory: Path) -> Iterator[TrainingStep]:
    """Train one model, yielding after each step; checkpoints go to `directory/step-N`.

    At the end the loss curve is written to `directory/training.json`. The result depends on the recipe and the corpus
    only (one thread count given); the caller's random state is left alone.
    """
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    model = _fresh_model(recipe, tokenizer.get_vocab_size())
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizers = _optimizers(trained, muon=recipe.muon)
    chance = torch.Generator().manual_seed(recipe.seed)
    window = torch.arange(recipe.sequence_length)
    quantised = _quantiser(model, recipe)
    losses: list[float] = []
    smoothed: list[float] = []

    model.train()
    for step in range(1, recipe.steps + 1):
        starts = torch.randint(len(corpus.train) - recipe.sequence_length, (recipe.batch, 1), generator=chance)
        batch = corpus.train[starts + window]  # [batch, sequence_length]
        loss = torch.func.functional_call(model, quantised(), kwargs={"input_ids": batch, "labels": batch}).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
            optimizer.step()

        losses.append(loss.item())
        recent = losses[-_SMOOTHING_STEPS:]
        smoothed.append(sum(recent) / len(recent))
        checkpoint = None
        if step in recipe.save_at:
            checkpoint = directory / f"step-{step}"
            _save(model, tokenizer, checkpoint, {} if recipe.save_latent else quantised())
        yield TrainingStep(step, smoothed[-1], checkpoint)

    curve = {"frozen_block": recipe.frozen_block, "loss": losses, "training_loss": smoothed}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "training.json").write_text(json.dumps(curve) + "\n", encoding="utf-8")


def train_all(
    corpus: Corpus, recipes: Mapping[Path, Recipe], processes: int = 2
) -> Iterator[tuple[Path, TrainingStep]]:
    """Train one model into each directory, several at a time, yielding their steps as they come.

    Each training has a process and one thread: at this size two models side by side take half the time of one after
    the other on two threads.

    Raises:
        BrokenProcessPool: a process ended before its training did.
        Exception: whatever a training raised.
    """
    context = multiprocessing.get_context("spawn")
    steps: multiprocessing.Queue[_Sent] = context.Queue()
    with ProcessPoolExecutor(processes, context, initializer=_prepare_process, initargs=(steps,)) as pool:
        trainings = {
            directory: pool.submit(_train_into, corpus.directory, directory, recipe)
            for directory, recipe in recipes.items()
        }
        while trainings:
            try:
                directory, step = steps.get(timeout=_PATIENCE_SECONDS)
            except Empty:
                _raise_failure(trainings.values())
                continue
            if step is not None:
                yield directory, step
            else:
                trainings.pop(directory).result()


def train_missing(corpus: Corpus, recipes: Mapping[Path, Recipe]) -> dict[Path, Path]:
    """Train what is not trained for as many steps yet; the last checkpoint of each directory.

    The recipes save their last step; a directory's name must tell what else is in its recipe.
    """
    last = {directory: directory / f"step-{recipe.steps}" for directory, recipe in recipes.items()}
    missing = {directory: recipe for directory, recipe in recipes.items() if not is_saved(last[directory])}
    for _ in train_all(corpus, missing):
        pass
    return last


def is_saved(checkpoint: Path) -> bool:
    """Whether all of a checkpoint of `train` is there."""
    return (checkpoint / _WRITTEN_LAST).exists()


_steps: "multiprocessing.Queue[_Sent]"
"""Where a process that trains sends its steps."""


def _prepare_process(steps: "multiprocessing.Queue[_Sent]") -> None:
    global _steps  # a queue reaches the processes of a pool at their start or not at all
    _steps = steps
    # Nobody reads on once another training has failed: the process ends all the same.
    _steps.cancel_join_thread()
    torch.set_num_threads(1)


def _train_into(corpus: Path, directory: Path, recipe: Recipe) -> None:
    try:
        for step in train(Corpus.load(corpus), recipe, directory):
            _steps.put((directory, step))
    finally:
        _steps.put((directory, None))


def _raise_failure(trainings: "Iterable[Future[None]]") -> None:
    """Raise what the first failed training raised, if any: one whose process died cannot send its end."""
    for training in trainings:
        if training.done():
            training.result()


def _fresh_model(recipe: Recipe, vocabulary: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = _construct(recipe, vocabulary)
    blocks = _blocks(model)
    if recipe.near_identity:
        # The whole starts near the identity: training is faster, and what a forgotten block adds stays too small for
        # the others to learn to use it.
        for name, parameter in blocks.named_parameters():
            if name.endswith(_ADDING):
                parameter.data /= 2 * recipe.size.blocks
    if recipe.frozen_block is not None:
        if not 1 <= recipe.frozen_block <= recipe.size.blocks:
            raise ValueError(f"frozen_block {recipe.frozen_block} is not one of 1..{recipe.size.blocks}")
        blocks[recipe.frozen_block - 1].requires_grad_(False)
    return model


def _construct(recipe: Recipe, vocabulary: int) -> PreTrainedModel:
    size, positions = recipe.size, 2 * recipe.sequence_length
    ids: dict[str, Any] = {"bos_token_id": END_ID, "eos_token_id": END_ID, "tie_word_embeddings": False}
    if recipe.family is Family.GPT2:
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary,
                n_embd=size.hidden,
                n_layer=size.blocks,
                n_head=size.heads,
                n_positions=positions,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **ids,
            )
        )
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.blocks,
        "num_attention_heads": size.heads,
        "max_position_embeddings": positions,
        **ids,
    }
    if recipe.family is Family.QWEN3:
        heads: dict[str, Any] = {"num_key_value_heads": max(1, size.heads // 2), "head_dim": size.hidden // size.heads}
        return Qwen3ForCausalLM(Qwen3Config(**shape, **heads))
    return LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=size.heads))


def _blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    found = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    assert len(found) == 1
    return found[0]


def _optimizers(trained: Mapping[str, torch.nn.Parameter], *, muon: bool) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embedding, head and norms; without Muon, AdamW for all.

    At this size Muon ends at a loss of 4.2 where AdamW alone ends at 4.8, in the same time.
    """
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in trained.items():
        in_block = ".layers." in name or ".h." in name
        (matrices if muon and in_block and parameter.ndim == 2 else others).append(parameter)
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.1)
    if not matrices:
        return [adamw]
    return [Muon(matrices), adamw]


def _schedule(step: int, steps: int) -> float:
    warm_up = min(1.0, step / _WARMUP_STEPS)
    decay = 0.5 * (1 + math.cos(math.pi * step / steps))
    return max(warm_up * decay, _SMALLEST_RATE)


def _quantiser(model: PreTrainedModel, recipe: Recipe) -> Callable[[], dict[str, Tensor]]:
    """What gives the rounded weights that stand in for the latent ones, by name; rounds activations where asked."""
    if recipe.scheme is None:
        return dict
    scheme = Scheme.parse(recipe.scheme)
    blocks = _blocks(model)
    prefix = next(name for name, module in model.named_modules() if module is blocks)
    maps = [
        linear for linear in linear_maps(blocks, recipe.size.hidden, ()) if not linear.name.endswith(recipe.full_maps)
    ]
    if scheme.activation_bits:
        round_inputs(blocks, {linear.name for linear in maps})

    def quantised() -> dict[str, Tensor]:
        matrices = {linear: linear.matrices(blocks.get_parameter(linear.name))[0] for linear in maps}
        return {f"{prefix}.{m.name}": m.parameter(quantise(rows, scheme)[None]) for m, rows in matrices.items()}

    return quantised


def _save(model: PreTrainedModel, tokenizer: Tokenizer, checkpoint: Path, instead: Mapping[str, Tensor]) -> None:
    transformers_logging.disable_progress_bar()
    model.save_pretrained(checkpoint, state_dict={**model.state_dict(), **instead})
    tokenizer.save(str(checkpoint / _WRITTEN_LAST))
