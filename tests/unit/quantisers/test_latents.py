from typing import cast

import pytest
import torch
from torch import Tensor, nn

from peelbound.workers.linear_maps import LinearMap
from peelbound.workers.quantisers.latents import Latents
from peelbound.workers.quantisers.quantise import coded, quantise
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.quantisers.weight_class import WeightClass, effective

TERNARY = Scheme("ternary")
MAPS = [LinearMap("0.weight", (16, 32)), LinearMap("2.weight", (32, 16))]


def block() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 32))


def weights(module: nn.Sequential) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def loss_of(module: nn.Module) -> Tensor:
    x = torch.linspace(-1, 1, 64).reshape(2, 32)
    return cast(Tensor, module(x)).square().sum()


def test_a_block_holds_rounded_weights_and_the_latent_ones_stand_behind() -> None:
    module = block()
    before = weights(module)
    latents = Latents(module, WeightClass(TERNARY, latent=True).fresh(MAPS))
    assert torch.equal(module[0].weight, quantise(before["0.weight"], TERNARY))
    assert torch.equal(module[0].bias, before["0.bias"])
    assert torch.equal(latents.parameters[0], before["0.weight"])
    assert latents.steps == [None] * 4  # its scales follow the weights


def test_gradients_reach_the_latent_weights_straight_through() -> None:
    module = block()
    before = weights(module)
    latents = Latents(module, WeightClass(TERNARY, latent=True).fresh(MAPS))
    loss_of(module).backward()
    latents.collect()
    held = {name: p.clone().requires_grad_() for name, p in before.items()}
    rounded = {n: quantise(p, TERNARY) if n.endswith("weight") else p for n, p in held.items()}
    expected = loss_of(lambda_module(module, rounded))
    expected.backward()
    for name, latent in zip(held, latents.parameters, strict=True):
        torch.testing.assert_close(latent.grad, held[name].grad)


def lambda_module(module: nn.Module, parameters: dict[str, Tensor]) -> nn.Module:
    class Called(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, torch.func.functional_call(module, parameters, (x,)))

    return Called()


def test_steps_move_the_latent_weights_and_the_block_stays_of_its_class() -> None:
    module = block()
    latents = Latents(module, WeightClass(TERNARY, latent=True).fresh(MAPS))
    first = float(loss_of(module).detach())
    optimiser = torch.optim.Adam(latents.parameters, lr=1e-2)
    for _ in range(20):
        latents.zero_grad()
        loss_of(module).backward()
        latents.collect()
        optimiser.step()
        latents.place()
        assert len(module[0].weight.unique()) <= 3
    assert float(loss_of(module).detach()) < first


def test_weights_on_a_grid_keep_its_scale_while_they_are_solved() -> None:
    module = block()
    tensors = {n: coded(p, TERNARY).weight if n.endswith("weight") else p for n, p in weights(module).items()}
    module.load_state_dict(tensors)
    rounding = WeightClass(TERNARY).trained(MAPS, tensors, {})
    latents = Latents(module, rounding)
    between = [float(tensors[name].max()) for name in ("0.weight", "2.weight")]  # 0 and the largest are neighbours
    assert latents.steps == [pytest.approx(between[0]), None, pytest.approx(between[1]), None]
    assert all(torch.equal(p, tensors[n]) for n, p in module.named_parameters())
    with torch.no_grad():
        for parameter in latents.parameters:
            parameter.add_(0.1 * torch.ones_like(parameter).cumsum(-1).sin())
    latents.place()
    assert not torch.equal(module[0].weight, tensors["0.weight"])
    assert set(module[0].weight.unique().tolist()) == set(tensors["0.weight"].unique().tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["int4-g16", "int2-g16", "q4_1", "ternary", "binary-fbi-g16"])
def test_codes_that_no_step_has_moved_count_as_none(name: str, dtype: torch.dtype) -> None:
    """Whatever the weights were stored in, which rounds them off their grid."""
    linear = LinearMap("w", (32, 64))
    dense = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    stored = coded(dense, Scheme.parse(name)).weight.to(dtype).float()
    module = nn.ParameterDict({"w": nn.Parameter(stored.clone())})
    rounding = WeightClass(Scheme.parse(name)).trained([linear], {"w": stored}, {})
    assert set(rounding) == {"w"}
    latents = Latents(module, rounding)
    assert latents.moved({"w": stored}) == 0
    step = rounding["w"].step
    assert step is not None
    with torch.no_grad():
        latents.parameters[0][0, 0] += 2 * step if float(stored[0, 0]) < 0 else -2 * step
    latents.place()
    assert latents.moved({"w": stored}) == pytest.approx(1 / stored.numel())


def test_grids_are_where_the_weights_are() -> None:
    """Files are read on the host, blocks lie on a device."""
    linear, stored = LinearMap("w", (8, 32)), coded(torch.randn(8, 32), Scheme.parse("int4-g16")).weight
    rounding = WeightClass(Scheme.parse("int4-g16")).trained([linear], {"w": stored}, {})
    elsewhere = nn.ParameterDict({"w": nn.Parameter(stored.to("meta"))})
    latents = Latents(elsewhere, rounding)
    assert latents.parameters[0].device.type == "meta"


def test_a_map_that_lies_on_no_grid_stays_in_full_precision() -> None:
    tensors = weights(block())
    tensors["0.weight"] = coded(tensors["0.weight"], TERNARY).weight
    assert set(WeightClass(TERNARY).trained(MAPS, tensors, {})) == {"0.weight"}


def test_effective_weights_leave_all_but_the_restricted_maps_alone() -> None:
    tensors = weights(block())
    seen = effective(tensors, WeightClass(TERNARY, True, full_maps=("2.weight",)).fresh(MAPS))
    assert torch.equal(seen["0.weight"], quantise(tensors["0.weight"], TERNARY))
    assert seen["2.weight"] is tensors["2.weight"]
    assert seen["0.bias"] is tensors["0.bias"]


def test_experts_are_rounded_one_by_one() -> None:
    stack = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    linear = LinearMap("experts.up", (3, 16, 8), transposed=True)
    seen = effective({"experts.up": stack.mT.contiguous()}, WeightClass(TERNARY, latent=True).fresh([linear]))
    torch.testing.assert_close(seen["experts.up"].mT, torch.stack([quantise(m, TERNARY) for m in stack]))
