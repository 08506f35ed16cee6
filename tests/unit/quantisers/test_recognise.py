import pytest
import torch
from torch import Tensor

from peelbound.workers.quantisers.quantise import coded
from peelbound.workers.quantisers.recognise import held_grid, recognise
from peelbound.workers.quantisers.scheme import Scheme


def drawn(seed: int = 0, rows: int = 48, columns: int = 128) -> Tensor:
    return 0.05 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("made", "seen"),
    [
        ("binary", "binary"),
        ("binary-g32", "binary-g32"),
        ("binary-fbi", "binary-fbi"),
        ("ternary", "ternary"),
        ("ternary-twn", "ternary-twn"),
        ("ternary-g64", "ternary-g64"),
        ("int2", "int2"),
        ("int3", "int3"),
        ("int4", "int4"),
        ("int4-g32", "int4-g32"),
        ("int4-g64", "int4-g64"),
        ("int6", "int6"),
        ("int8", "int8"),
        ("q4_0", "int4-g32"),
        ("q4_1", "int4-g32"),
        ("q8_0", "int8-g32"),
    ],
)
def test_a_grid_is_found_in_the_weights_that_lie_on_it(made: str, seen: str) -> None:
    weight = coded(drawn(), Scheme.parse(made)).weight
    found = recognise(weight)
    assert found is not None
    assert str(found.scheme) == seen
    torch.testing.assert_close(found.grid.quantise(weight), weight, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("made", ["binary", "ternary", "ternary-twn", "int4"])
def test_the_grid_that_is_found_returns_the_weights_bit_by_bit(made: str) -> None:
    weight = coded(drawn(1), Scheme.parse(made)).weight
    found = recognise(weight)
    assert found is not None
    assert torch.equal(found.grid.quantise(weight), weight)


@pytest.mark.parametrize("made", ["ternary-twn", "int3", "int4", "int4-g32", "int5"])
def test_weights_stored_in_bfloat16_are_still_seen_on_their_grid(made: str) -> None:
    weight = coded(drawn(2), Scheme.parse(made)).weight.bfloat16().float()
    found = recognise(weight)
    assert found is not None
    assert str(found.scheme) == made


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_zero_points_make_no_bit_more(bits: int) -> None:
    grouped = drawn(3).reshape(-1, 64)
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round()
    codes = (grouped / scale + zero).round().clamp(0, 2**bits - 1)
    weight = ((codes - zero) * scale).reshape(drawn(3).shape).half().float()
    found = recognise(weight)
    assert found is not None
    assert str(found.scheme) == f"int{bits}-g64"
    assert found.grid.levels == 2**bits


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dense_weights_are_on_no_grid(seed: int, dtype: torch.dtype) -> None:
    assert recognise(drawn(seed).to(dtype).float()) is None


def test_eight_bits_cannot_be_told_from_dense_in_bfloat16() -> None:
    # It has eight bits itself.
    assert recognise(coded(drawn(), Scheme("int", 8)).weight.bfloat16().float()) is None


def test_a_single_weight_off_the_grid_is_enough_to_deny_it() -> None:
    weight = coded(drawn(), Scheme("ternary")).weight
    weight[17, 3] += 1e-4
    assert recognise(weight) is None


def test_weights_of_zeros_say_nothing() -> None:
    assert recognise(torch.zeros(8, 64)) is None


def test_the_number_of_distinct_values_is_told() -> None:
    found = recognise(coded(drawn(), Scheme("ternary")).weight)
    assert found is not None
    assert found.values == 3


def test_a_group_of_one_value_among_groups_of_two_keeps_it() -> None:
    weight = torch.where(torch.arange(4 * 64).reshape(4, 64) % 3 == 0, 0.3, -0.1)
    weight[1, :16] = 0.05
    weight[2, 16:32] = 0.0
    grid = held_grid(weight, Scheme.parse("binary-fbi-g16"))
    assert grid is not None
    torch.testing.assert_close(grid.quantise(weight), weight)
    assert grid.quantise(weight)[1, 0] == weight[1, 0]
    assert not grid.quantise(weight)[2, 16:32].any()
