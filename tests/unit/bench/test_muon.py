"""Muon in float32 goes where torch's own goes, which rounds to bfloat16 on the way."""

import pytest
import torch

from bench.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_it_takes_the_steps_of_torchs_own(shape: tuple[int, int]) -> None:
    chance = torch.Generator().manual_seed(0)
    start, pull = (torch.randn(shape, generator=chance) for _ in range(2))
    mine, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizers = [
        Muon([mine], lr=0.01),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(5):
        for matrix, optimizer in zip((mine, theirs), optimizers, strict=True):
            matrix.grad = 2 * (matrix.detach() - pull)
            optimizer.step()
    assert (mine - theirs).norm() < 0.02 * (theirs - start).norm()


def test_singular_values_become_alike() -> None:
    values = torch.linalg.svdvals(orthogonalised(torch.randn(32, 12, generator=torch.Generator().manual_seed(0))))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3


def test_a_matrix_without_a_gradient_stays() -> None:
    frozen = torch.nn.Parameter(torch.ones(3, 3))
    Muon([frozen]).step()
    assert torch.equal(frozen, torch.ones(3, 3))
