"""Small models taken apart as the audit does, beside the library's whole model that everything is compared with."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peelbound.workers.architecture import Architecture
from peelbound.workers.passes import Floats, Ints
from peelbound.workers.skeleton import Skeleton
from tests.tiny_models import random_model

VOCABULARY = 96
GRAIN = 2


def no_interruption(step: int) -> None:
    """Lets every solve run to its end."""


@dataclass
class Subject:
    """A whole model, tokens of some documents, and what autograd says of them."""

    whole: PreTrainedModel
    ids: Ints
    """[N, T]."""
    mask: np.ndarray[Any, np.dtype[np.bool_]]
    """[N, T−1]."""

    @cached_property
    def architecture(self) -> Architecture:
        return Architecture.from_config_json(self.whole.config.to_dict())

    @cached_property
    def parts(self) -> list[dict[str, Tensor]]:
        tensors: dict[str, Tensor] = dict(self.whole.state_dict())
        if self.whole.all_tied_weights_keys:
            tensors = {n: t for n, t in tensors.items() if n not in self.whole.all_tied_weights_keys}
        placed = self.architecture.place({name: tuple(t.shape) for name, t in tensors.items()})
        parts: list[dict[str, Tensor]] = [{} for _ in range(self.blocks + 1)]
        for placement in placed:
            parts[placement.part][placement.name] = tensors[placement.stored[0]].clone()
        return parts

    @cached_property
    def skeleton(self) -> Skeleton:
        return Skeleton(self.architecture, self.parts[0])

    @property
    def blocks(self) -> int:
        return self.architecture.block_count

    def block(self, index: int) -> nn.Module:
        """A block of its own: the solvers change it in place."""
        return self.skeleton.load_block(index, {name: t.clone() for name, t in self.parts[index].items()})

    def in_whole(self, index: int) -> nn.Module:
        """The library's own block."""
        blocks = self.whole.get_submodule(self.architecture.blocks_name)
        assert isinstance(blocks, nn.ModuleList)
        return blocks[index - 1]

    def with_block(self, index: int, block: nn.Module) -> "Subject":
        """The same model with other weights in one block."""
        whole = copy.deepcopy(self.whole)
        other = Subject(whole, self.ids, self.mask)
        other.in_whole(index).load_state_dict(block.state_dict())
        return other

    def losses(self) -> Tensor:
        """Cross-entropy of every next token by the whole model, [N, T−1], zero where masked."""
        ids = torch.from_numpy(self.ids)
        logits = self.whole(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        rows = nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
        return rows.view(self.mask.shape) * torch.from_numpy(self.mask)

    def loss(self) -> float:
        """Mean over the tokens with a loss."""
        with torch.no_grad():
            return float(self.losses().double().sum() / self.mask.sum())

    @cached_property
    def _traced(self) -> tuple[list[Tensor], list[Tensor]]:
        """h[0..K] and ∂ΣCE/∂h[0..K] of the whole model."""
        states: list[Tensor] = []

        def enters(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            if not args:
                kwargs = {**kwargs, "hidden_states": kwargs["hidden_states"].requires_grad_()}
                states.append(kwargs["hidden_states"])
                return args, kwargs
            states.append(args[0].requires_grad_())
            return (states[-1], *args[1:]), kwargs

        def leaves(_: nn.Module, __: Any, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        handles = [
            self.in_whole(1).register_forward_pre_hook(enters, with_kwargs=True),
            *(self.in_whole(i).register_forward_hook(leaves) for i in range(1, self.blocks + 1)),
        ]
        try:
            loss = self.losses().sum()
        finally:
            for handle in handles:
                handle.remove()
        return [h.detach() for h in states], list(torch.autograd.grad(loss, states))

    def h(self, boundary: int) -> Floats:
        """h[boundary], [N, T, D]."""
        return self._traced[0][boundary].numpy()

    def g(self, boundary: int) -> Floats:
        """∂ΣCE/∂h[boundary], [N, T, D]."""
        return self._traced[1][boundary].numpy()


def random_subject(family: str, sequences: int = 5, length: int = 24, **changes: Any) -> Subject:
    """A random model of a family on random tokens, some of which have no loss."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, VOCABULARY, (sequences, length))
    mask = rng.random((sequences, length - 1)) > 0.2
    return Subject(random_model(family, **changes).requires_grad_(False), ids, mask)


def markov_tokens(rng: np.random.Generator, sequences: int, length: int) -> Ints:
    """Text that a small model can learn: of 32 tokens each is followed by one of three others."""
    following = np.random.default_rng(7).integers(3, 35, (VOCABULARY, 3))
    ids = np.zeros((sequences, length), np.int64)
    ids[:, 0] = rng.integers(3, 35, sequences)
    for t in range(1, length):
        ids[:, t] = following[ids[:, t - 1], rng.choice(3, sequences, p=[0.7, 0.2, 0.1])]
    return ids


def trained_subject(steps: int = 80, sequences: int = 24, length: int = 24) -> Subject:
    """A llama of two blocks, trained for a few steps on Markov text."""
    rng = np.random.default_rng(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = random_model("llama", num_hidden_layers=2)
        optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(steps):
            text = torch.from_numpy(markov_tokens(rng, 16, length))
            optimiser.zero_grad()
            logits = model(input_ids=text, use_cache=False).logits[:, :-1]
            nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).backward()
            optimiser.step()
    ids = markov_tokens(np.random.default_rng(2), sequences, length)
    return Subject(model.requires_grad_(False), ids, np.ones((sequences, length - 1), bool))
