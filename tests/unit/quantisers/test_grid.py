import pytest
import torch

from peelbound.workers.errors import CheckpointError, RequestError
from peelbound.workers.quantisers.grid import HeldGrid, straight_through


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(-1, 1, 1)


def test_a_grid_rounds_to_its_nearest_value_and_keeps_its_scale() -> None:
    grid = HeldGrid(column(0.5, -2.0), None, -2, 1)
    found = grid.quantise(torch.tensor([[0.3, -9.0], [3.5, -1.5]]))
    assert found.tolist() == [[0.5, -1.0], [4.0, -2.0]]


def test_a_zero_point_moves_the_grid() -> None:
    grid = HeldGrid(column(0.1), column(8), 0, 15)
    torch.testing.assert_close(grid.quantise(torch.tensor([[0.0, -0.8, 9.0]])), torch.tensor([[0.0, -0.8, 0.7]]))


def test_groups_have_scales_of_their_own() -> None:
    grid = HeldGrid(torch.tensor([[[1.0], [10.0]]]), None, -1, 1)
    assert grid.quantise(torch.tensor([[0.7, -3.0, 6.0, 2.0]])).tolist() == [[1, -1, 10, 0]]


def test_a_binary_grid_has_two_values_and_gives_zero_the_upper_one() -> None:
    assert HeldGrid.binary(column(2.0)).quantise(torch.tensor([[0.0, -0.1, 5.0]])).tolist() == [[2, -2, 2]]
    shifted = HeldGrid.binary(column(2.0), column(0.5)).quantise(torch.tensor([[0.4, 0.6]]))
    assert shifted.tolist() == [[-1.5, 2.5]]


def test_a_binary_group_of_one_value_keeps_it_wherever_its_weights_go() -> None:
    grid = HeldGrid.binary(column(0.0, 1.0), column(0.5, 0.5)).to("cpu")
    moved = torch.tensor([[0.5, 0.9, 7.0], [0.5, 0.9, 7.0]])
    assert grid.quantise(moved).tolist() == [[0.5, 0.5, 0.5], [1.5, 1.5, 1.5]]
    assert grid.edges(moved)[0].tolist() == [0, 0, 0]


def test_a_scale_of_zero_makes_its_group_zero() -> None:
    grid = HeldGrid(column(0.0, 1.0), None, -1, 1)
    assert grid.quantise(torch.tensor([[5.0], [5.0]])).tolist() == [[0], [1]]


def test_edges_tell_how_far_a_latent_is_from_its_next_code() -> None:
    grid = HeldGrid(column(2.0), None, -1, 1)
    torch.testing.assert_close(grid.edges(torch.tensor([[0.0, 0.5, -0.9, 2.0]])), torch.tensor([[0.0, 0.5, -0.9, 0.0]]))


def test_the_value_of_a_straight_through_estimate_is_exact() -> None:
    weight, value = torch.tensor([1e8], requires_grad=True), torch.tensor([0.1])
    assert torch.equal(straight_through(value, weight), value)


def test_scales_that_are_not_finite_name_their_tensor() -> None:
    with pytest.raises(CheckpointError) as caught:
        HeldGrid(column(1.0, float("nan")), None, -1, 1).checked("mlp.up_proj.weight")
    assert caught.value.slug == "weights-scales-not-finite"
    assert "1 of 2" in caught.value.detail
    assert "mlp.up_proj.weight" in caught.value.detail


def test_groups_that_do_not_divide_the_weight_are_refused() -> None:
    with pytest.raises(RequestError):
        HeldGrid(torch.ones(1, 3, 1), None, -1, 1).quantise(torch.zeros(2, 16))
