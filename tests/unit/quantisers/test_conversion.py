"""What a model must be for its blocks to be rounded to a weight class."""

import pytest
import torch

from peelbound.workers.errors import RequestError, UnsupportedModel
from peelbound.workers.linear_maps import LinearMap
from peelbound.workers.quantisers.conversion import require_dense, require_fitting
from peelbound.workers.quantisers.quantise import quantise
from peelbound.workers.quantisers.scheme import Scheme

UP = LinearMap("mlp.up_proj.weight", (64, 32))
TURNED = LinearMap("mlp.c_proj.weight", (48, 32), transposed=True)  # 48 inputs
EXPERTS = LinearMap("mlp.experts.gate_up_proj", (4, 64, 32))


def test_groups_that_divide_the_inputs_of_every_map_fit() -> None:
    require_fitting([UP, TURNED], Scheme.parse("int4-g16"), 1)
    require_fitting([UP, EXPERTS], Scheme.parse("ternary"), 1)


def test_groups_that_do_not_divide_are_refused_by_the_map() -> None:
    with pytest.raises(RequestError, match=r"Groups of 32 .* 48 inputs of mlp.c_proj.weight in block 3") as refused:
        require_fitting([UP, TURNED], Scheme.parse("int4-g32"), 3)
    assert (refused.value.slug, refused.value.pointer) == ("weights-group-indivisible", "/what_if")


def test_rounded_activations_are_refused_where_experts_are_fused() -> None:
    with pytest.raises(UnsupportedModel, match=r"gate_up_proj holds fused experts") as refused:
        require_fitting([UP, EXPERTS], Scheme.parse("ternary+a8"), 1)
    assert (refused.value.slug, refused.value.pointer) == ("weights-activations-unsupported", "/what_if")
    assert "ternary instead" in refused.value.remedy


def test_a_map_that_lies_on_a_grid_already_is_refused() -> None:
    dense = {
        linear.name: torch.randn(linear.shape, generator=torch.Generator().manual_seed(1)) for linear in (UP, TURNED)
    }
    require_dense([UP, TURNED], dense, "int4", 2)
    low_bit = dense | {UP.name: quantise(dense[UP.name], Scheme.parse("ternary"))}
    with pytest.raises(RequestError, match=r"mlp.up_proj.weight of block 2 is ternary already") as refused:
        require_dense([UP, TURNED], low_bit, "int4", 2)
    assert (refused.value.slug, refused.value.pointer) == ("request-what-if-low-bit", "/what_if")
