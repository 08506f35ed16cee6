"""Damages with known truth: what was done to which block of a copy of a model.

Every damage works on the tensors of a block by name, or, for the rotary base, on the call that a block gets. They are
the ways in which blocks go wrong in practice: a part that was never trained or was initialised again, a broken loader
(swapped blocks, permuted heads, a wrong rotary base), a bad conversion (rounding, a scale that was forgotten), noise.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from peelbound.workers.damage import noisy
from peelbound.workers.skeleton import Skeleton

ADDING = ("o_proj.weight", "down_proj.weight", "c_proj.weight", "c_proj.bias", "dense_4h_to_h.weight", "fc2.weight")
"""Endings of what writes into the residual stream."""
MLP_ADDING = ("down_proj.weight", "mlp.c_proj.weight", "mlp.c_proj.bias", "dense_4h_to_h.weight", "fc2.weight")
ROTARY_FACTOR = 50.0
"""A wrong base: 10,000 becomes 500,000, as between LLaMA 2 and LLaMA 3."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One damaged copy: a kind of damage, and the blocks (1..K) that carry it; none for the sound model."""

    kind: str
    blocks: tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Copy:
    """A model's blocks, and those whose rotary base is wrong."""

    blocks: Sequence[Tensors]
    rotary: Mapping[int, float] = field(default_factory=dict)
    """Factor on the base by block (1..K)."""

    def load(self, skeleton: Skeleton, index: int) -> nn.Module:
        """Block `index`, damaged as it is."""
        block = skeleton.load_block(index, self.blocks[index - 1])
        if index in self.rotary:
            block.register_forward_pre_hook(_other_base(self.rotary[index]), with_kwargs=True)
        return block


SINGLE = (
    "reset",
    "reset near identity",
    "output x0.5",
    "output x1.5",
    "noise 0.2",
    "noise 0.4",
    "noise 0.8",
    "ternary",
    "heads permuted",
    "rotary base",
    "dead MLP",
)
"""Kinds of which each block is damaged on its own."""
SWAPPED = "swapped"
SOUND = "sound"
FROZEN = "frozen"
"""Not a damage of a copy: a training that left a block out."""


def cases_of(blocks: int, rotary: bool, seed: int, positions: int = 1) -> list[Case]:
    """The sound model, each kind in `positions` blocks drawn at random, and pairs: swapped, reset, noised.

    More positions add cases and change none.
    """

    def drawn(kind: str, count: int) -> tuple[int, ...]:
        chance = random.Random(f"{seed} {kind}")  # noqa: S311 - reproducible choices, no secret
        return tuple(chance.sample(range(1, blocks + 1), count))

    found = [Case(SOUND)]
    for kind in SINGLE:
        if kind != "rotary base" or rotary:
            found += [Case(kind, (b,), seed) for b in drawn(kind, positions)]
    pairs = (SWAPPED, "reset", "noise 0.8")
    return [*found, *(Case(kind, tuple(sorted(drawn(f"{kind} twice", 2))), seed) for kind in pairs)]


def damaged(skeleton: Skeleton, sound: Copy, case: Case, heads: int) -> Copy:
    """The copy of a case; `heads` are the model's query heads."""
    blocks = list(sound.blocks)
    if case.kind == SWAPPED:
        first, second = (b - 1 for b in case.blocks)
        blocks[first], blocks[second] = blocks[second], blocks[first]
        return replace(sound, blocks=blocks)
    if case.kind == "rotary base":
        return replace(sound, rotary=dict.fromkeys(case.blocks, ROTARY_FACTOR))
    for index in case.blocks:
        blocks[index - 1] = _damage(skeleton, index, blocks, case, heads)
    return replace(sound, blocks=blocks)


def _damage(skeleton: Skeleton, index: int, blocks: Sequence[Tensors], case: Case, heads: int) -> Tensors:
    tensors = blocks[index - 1]
    kind, _, amount = case.kind.partition(" ")
    if kind == "reset":
        fresh = dict(skeleton.fresh_block(index, 1000 * case.seed + index).state_dict())
        share = 1 / (2 * len(blocks)) if amount else 1.0
        return {n: t * share if n.endswith(ADDING) else t for n, t in fresh.items()}
    if kind == "output":
        return {n: t * float(amount[1:]) if n.endswith(ADDING) else t for n, t in tensors.items()}
    if kind == "noise":
        return noisy(tensors, float(amount), 1000 * case.seed + index)
    if kind == "ternary":
        return {n: _ternary(t) if t.ndim == 2 else t for n, t in tensors.items()}
    if kind == "heads":
        return _heads_permuted(tensors, heads, case.seed + index)
    if kind == "dead":
        return {n: torch.zeros_like(t) if n.endswith(MLP_ADDING) else t for n, t in tensors.items()}
    raise ValueError(f"no damage is called {case.kind!r}")


def _ternary(weight: Tensor) -> Tensor:
    """Rounded to {-a, 0, a} with a = mean|W| (BitNet b1.58, arXiv 2402.17764), without any training."""
    scale = weight.abs().mean()
    return (weight / scale).round().clamp(-1, 1) * scale


def _heads_permuted(tensors: Tensors, heads: int, seed: int) -> Tensors:
    """The query heads in another order, every one of them moved: what a conversion with a wrong layout does."""
    order = random.Random(seed).sample(range(heads), heads)  # noqa: S311 - reproducible, no secret
    first = order[0]
    moved = list(range(heads))
    for at, following in zip(order, [*order[1:], first], strict=True):
        moved[at] = following
    changed = dict(tensors)
    for name, value in tensors.items():
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            changed[name] = value.unflatten(0, (heads, -1))[moved].flatten(0, 1)
        elif name.endswith(("c_attn.weight", "c_attn.bias")):  # GPT-2: queries, keys and values side by side
            q, rest = value.split([value.shape[-1] // 3, value.shape[-1] // 3 * 2], dim=-1)
            changed[name] = torch.cat([q.unflatten(-1, (heads, -1))[..., moved, :].flatten(-2), rest], dim=-1)
    if all(changed[n] is tensors[n] for n in tensors):
        raise ValueError(f"no query heads among {sorted(tensors)}")
    return changed


def _other_base(factor: float) -> Callable[..., Any]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        cos, sin = kwargs["position_embeddings"]
        return args, {**kwargs, "position_embeddings": rotated(cos, sin, factor)}

    return hook


def rotated(cos: Tensor, sin: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Tables [1, T, d] of the base times `factor`: frequency i, base^(-2i/d), falls by factor^(-2i/d)."""
    half = cos.shape[-1] // 2
    angle = torch.atan2(sin[:, 1:2, :half], cos[:, 1:2, :half])  # one step's turn, below pi for every base above 1
    frequency = angle * factor ** (-torch.arange(half, device=cos.device) / half)
    turned = torch.arange(cos.shape[1], device=cos.device)[None, :, None] * frequency
    both = torch.cat([turned, turned], dim=-1)
    return both.cos().to(cos.dtype), both.sin().to(sin.dtype)
