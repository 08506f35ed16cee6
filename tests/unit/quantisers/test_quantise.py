import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peelbound.workers.errors import RequestError
from peelbound.workers.quantisers.activations import quantise_tokens
from peelbound.workers.quantisers.quantise import coded, quantise
from peelbound.workers.quantisers.scheme import FULL, Scheme

ALL = [
    "binary",
    "binary-g16",
    "binary-fbi",
    "ternary",
    "ternary-g32",
    "ternary-twn",
    "int2",
    "int3-g16",
    "int4",
    "int8",
]
ALL += ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]


def drawn(seed: int, rows: int = 4, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, rows: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(rows, dtype=torch.float32))


def test_xnor_is_the_mean_size_of_the_channel_with_the_signs_of_its_weights() -> None:
    close(quantise(torch.tensor([[1.0, -2.0, 0.0], [3.0, 3.0, -3.0]]), Scheme("binary")), [[1, -1, 1], [3, 3, -3]])


def test_fbi_adds_the_mean_of_the_channel() -> None:
    close(quantise(torch.tensor([[1.0, -2.0, 4.0, 1.0]]), Scheme("binary-fbi")), [[3, -1, 3, 3]])


def test_absmean_is_one_scale_for_the_tensor() -> None:
    close(quantise(torch.tensor([[2.0, -0.4], [0.6, -1.0]]), Scheme("ternary")), [[1, 0], [1, -1]])


def test_absmean_with_groups_has_a_scale_for_each() -> None:
    found = quantise(torch.tensor([[1.0, 3.0, -8.0, 0.0]]), Scheme("ternary", group=2))
    close(found, [[0, 2, -4, 0]])  # 1 / 2 is a tie and goes to the even code


def test_twn_drops_weights_below_seven_tenths_of_the_mean_and_averages_the_others() -> None:
    close(quantise(torch.tensor([[1.0, -0.5, 0.6, 2.0, -0.9]]), Scheme("ternary-twn")), [[1.3, 0, 0, 1.3, -1.3]])


def test_int4_gives_its_extreme_the_lowest_code() -> None:
    close(quantise(torch.tensor([[8.0, 1.4, -7.6, 0.0]]), Scheme("int", 4)), [[8, 1, -7, 0]])
    assert coded(torch.tensor([[8.0, 0.0]]), Scheme("int", 4)).codes.flatten().tolist() == [-8, 0]


def test_q8_0_is_a_hundred_and_twenty_seventh_of_the_largest_weight() -> None:
    row = torch.zeros(1, 32)
    row[0, :3] = torch.tensor([127.0, -2.5, 0.4])
    expected = torch.zeros(1, 32)
    expected[0, :2] = torch.tensor([127.0, -3.0])
    torch.testing.assert_close(quantise(row, Scheme.parse("q8_0")), expected)


def test_q4_1_spans_least_to_largest_weight() -> None:
    row = torch.full((1, 32), 1.0)
    row[0, :2] = torch.tensor([16.0, 2.4])
    expected = torch.full((1, 32), 1.0)
    expected[0, :2] = torch.tensor([16.0, 2.0])
    torch.testing.assert_close(quantise(row, Scheme.parse("q4_1")), expected)


@pytest.mark.parametrize("name", ALL)
def test_a_group_takes_no_more_values_than_its_grid_has(name: str) -> None:
    found = coded(drawn(0), Scheme.parse(name))
    for rows in found.grid.grouped(found.weight):
        for group in rows:
            assert len(group.unique()) <= found.grid.levels


@pytest.mark.parametrize("name", ALL)
def test_weights_of_zeros_stay_finite(name: str) -> None:
    assert torch.equal(quantise(torch.zeros(2, 64), Scheme.parse(name)), torch.zeros(2, 64))


@pytest.mark.parametrize("name", [n for n in ALL if not n.startswith("binary")])
def test_the_gradient_passes_unchanged(name: str) -> None:
    weight = (3 * drawn(1)).requires_grad_()
    rows = drawn(2)
    (quantise(weight, Scheme.parse(name)) * rows).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, rows)


@pytest.mark.parametrize("name", ["binary", "binary-fbi"])
def test_the_gradient_of_binary_weights_stops_beyond_one(name: str) -> None:
    weight = torch.tensor([[0.5, -1.0, 1.5, -2.0]], requires_grad=True)
    quantise(weight, Scheme.parse(name)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("name", ["int2", "int4", "int4-g16", "int8", "q4_0", "q5_0", "q8_0"])
@given(seed=st.integers(0, 10**6), size=st.floats(1e-3, 1e3))
@settings(max_examples=8, deadline=None)
def test_rounding_twice_is_rounding_once(name: str, seed: int, size: float) -> None:
    once = quantise(size * drawn(seed), Scheme.parse(name))
    assert torch.equal(quantise(once, Scheme.parse(name)), once)


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 10**6), size=st.floats(1e-3, 1e3))
@settings(max_examples=8, deadline=None)
def test_a_held_grid_returns_its_own_values_bit_by_bit(name: str, seed: int, size: float) -> None:
    found = coded(size * drawn(seed), Scheme.parse(name))
    assert torch.equal(found.grid.quantise(found.weight), found.weight)
    assert torch.equal(found.grid.codes(found.weight), found.codes)


def test_absmean_of_its_own_result_has_its_scale_times_the_density() -> None:
    # The trap: why packed ternaries keep their grid.
    once = coded(drawn(3), Scheme("ternary"))
    again = coded(once.weight, Scheme("ternary"))
    density = float(once.codes.abs().mean())
    assert 0.5 < density < 0.8
    assert torch.equal(again.codes, once.codes)
    torch.testing.assert_close(again.grid.scale, once.grid.scale * density)


def test_a_group_that_does_not_divide_is_refused_with_both_numbers() -> None:
    with pytest.raises(RequestError) as caught:
        quantise(drawn(0, columns=48), Scheme.parse("q4_0"))
    assert caught.value.slug == "weights-group-indivisible"
    assert "32" in caught.value.detail
    assert "48" in caught.value.detail


def test_full_precision_leaves_weights_alone() -> None:
    weight = drawn(4)
    assert quantise(weight, FULL) is weight


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_tokens_are_rounded_to_half_a_step_of_their_largest_feature(seed: int) -> None:
    x = drawn(seed, rows=3, columns=16) * torch.tensor([[1e-2], [1.0], [100.0]])
    x.requires_grad_()
    found = quantise_tokens(x)
    step = x.detach().abs().amax(-1, keepdim=True) / 127
    assert bool(((found - x).abs() <= 0.5001 * step).all())
    found.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("scheme", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
@pytest.mark.parametrize("magnitude", [1e-6, 1e-9, 1e-39, 1e-44])
def test_groups_too_small_for_half_precision_stay_small(scheme: str, magnitude: float) -> None:
    """Channels that died are such groups; ggml makes them 0, or their offset."""
    row = (torch.linspace(-1, 1, 32) * magnitude)[None]
    rounded = quantise(row, Scheme.parse(scheme))
    assert float(rounded.abs().max()) <= magnitude + 2.0**-24  # half precision's smallest step
