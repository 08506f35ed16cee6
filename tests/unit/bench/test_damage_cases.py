"""Each damage does what it says, to its blocks and to no other."""

from functools import cache

import pytest
import torch
from torch import Tensor

from bench.damage.cases import ROTARY_FACTOR, SINGLE, SOUND, SWAPPED, Case, Copy, cases_of, damaged, rotated
from tests.numerics import random_subject

FAMILIES = ("llama", "gpt2", "qwen3")


class Model:
    """A tiny random model as the bench holds one; read only."""

    def __init__(self, family: str) -> None:
        subject = random_subject(family)
        self.skeleton, self.blocks, self.heads = subject.skeleton, subject.blocks, 4
        self.hidden = subject.architecture.hidden_size
        self.sound = Copy(subject.parts[1:])

    def damaged(self, kind: str, *blocks: int) -> Copy:
        return damaged(self.skeleton, self.sound, Case(kind, blocks, 7), self.heads)

    def changed(self, copy: Copy, index: int) -> set[str]:
        """Names of a block's tensors that differ from the sound ones."""
        before, after = self.sound.blocks[index - 1], copy.blocks[index - 1]
        assert before.keys() == after.keys()
        return {name for name in before if not torch.equal(before[name], after[name])}

    def adds(self, copy: Copy, index: int) -> Tensor:
        """What a block adds to some states, [2, 6, D]."""
        states = torch.randn(2, 6, self.hidden, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            added: Tensor = self.skeleton.run(index, copy.load(self.skeleton, index), states) - states
        return added


@cache
def model(family: str) -> Model:
    return Model(family)


@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_named_block_is_another(family: str, kind: str) -> None:
    if family == "gpt2" and kind == "rotary base":
        return  # it has no rotary positions, and `cases_of` asks for none
    it = model(family)
    copy = it.damaged(kind, 2)
    for index in (1, 3):
        assert not it.changed(copy, index)
        assert torch.equal(it.adds(copy, index), it.adds(it.sound, index))
    assert not torch.allclose(it.adds(copy, 2), it.adds(it.sound, 2), rtol=1e-3)
    assert bool(it.changed(copy, 2)) == (kind != "rotary base")


@pytest.mark.parametrize("family", FAMILIES)
def test_scaled_outputs_are_scaled_in_both_halves(family: str) -> None:
    it = model(family)
    copy = it.damaged("output x0.5", 1)
    writes = it.changed(copy, 1)
    assert len({name.split(".")[0] for name in writes}) == 2  # attention and MLP
    for name in writes:
        assert torch.equal(copy.blocks[0][name], it.sound.blocks[0][name] * 0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_is_in_units_of_each_matrix(family: str) -> None:
    it = model(family)
    copy = it.damaged("noise 0.8", 3)
    for name in it.changed(copy, 3):
        before, after = it.sound.blocks[2][name], copy.blocks[2][name]
        assert float((after - before).std() / before.std()) == pytest.approx(0.8, rel=0.2)


@pytest.mark.parametrize("family", FAMILIES)
def test_ternary_weights_have_three_values(family: str) -> None:
    it = model(family)
    copy = it.damaged("ternary", 2)
    for name, value in copy.blocks[1].items():
        if value.ndim == 2:
            scale = it.sound.blocks[1][name].abs().mean()
            assert set((value / scale).unique().tolist()) == {-1.0, 0.0, 1.0}
        else:
            assert torch.equal(value, it.sound.blocks[1][name])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_query_head_is_moved_and_none_is_lost(family: str) -> None:
    it = model(family)
    copy = it.damaged("heads permuted", 2)
    for name in it.changed(copy, 2):
        before, after = it.sound.blocks[1][name], copy.blocks[1][name]
        if name.endswith(("c_attn.weight", "c_attn.bias")):
            third = before.shape[-1] // 3
            assert torch.equal(before[..., third:], after[..., third:])  # keys and values stay
            before, after = before[..., :third].movedim(-1, 0), after[..., :third].movedim(-1, 0)
        one, other = (t.unflatten(0, (it.heads, -1)).flatten(1) for t in (before, after))
        assert not (one == other).all(dim=1).any()
        assert sorted(map(tuple, one.tolist())) == sorted(map(tuple, other.tolist()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dead_mlp_adds_nothing(family: str) -> None:
    it = model(family)
    copy = it.damaged("dead MLP", 1)
    states = torch.randn(1, 5, it.hidden, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        trace = it.skeleton.sublayers(1, copy.load(it.skeleton, 1), states)
    assert trace.mlp is not None
    assert trace.attention is not None
    assert not trace.mlp.any()
    assert trace.attention.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_that_was_reset_has_what_an_initialisation_gives(family: str) -> None:
    it = model(family)
    ordinary, near = it.damaged("reset", 2), it.damaged("reset near identity", 2)
    assert it.adds(near, 2).norm() < 0.4 * it.adds(ordinary, 2).norm()
    for name, value in ordinary.blocks[1].items():
        if value.ndim == 1 and not name.endswith("bias"):
            assert bool((value == 1).all())
    again = damaged(it.skeleton, it.sound, Case("reset", (2,), 8), it.heads)
    assert not torch.equal(it.adds(again, 2), it.adds(ordinary, 2))


def test_swapped_blocks_stand_in_each_others_place() -> None:
    it = model("llama")
    copy = it.damaged(SWAPPED, 1, 3)
    assert copy.blocks[0] is it.sound.blocks[2]
    assert copy.blocks[2] is it.sound.blocks[0]
    assert copy.blocks[1] is it.sound.blocks[1]


def test_another_rotary_base_turns_the_slow_dimensions_less() -> None:
    size, base, positions = 16, 10_000.0, torch.arange(9)

    def tables(theta: float) -> tuple[Tensor, Tensor]:
        angles = positions[:, None] * theta ** (-torch.arange(size // 2) * 2 / size)
        both = torch.cat([angles, angles], dim=-1)[None]
        return both.cos(), both.sin()

    for found, wanted in zip(rotated(*tables(base), ROTARY_FACTOR), tables(base * ROTARY_FACTOR), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_the_cases_are_the_same_every_time_and_hold_every_kind() -> None:
    cases = cases_of(6, rotary=True, seed=3)
    assert cases == cases_of(6, rotary=True, seed=3)
    assert cases != cases_of(6, rotary=True, seed=4)
    assert cases[0] == Case(SOUND)
    assert {c.kind for c in cases} == {SOUND, SWAPPED, *SINGLE}
    assert all(1 <= b <= 6 for c in cases for b in c.blocks)
    assert "rotary base" not in {c.kind for c in cases_of(6, rotary=False, seed=3)}
    more = cases_of(6, rotary=True, seed=3, positions=2)
    assert set(cases) < set(more)
    assert len(more) == len(cases) + len(SINGLE)


def test_an_unknown_damage_is_refused() -> None:
    with pytest.raises(ValueError, match="no damage is called"):
        model("llama").damaged("dropped", 1)
