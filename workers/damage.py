"""Known damage for the positive control: weight noise in one block."""

import torch
from torch import Tensor


def noisy(tensors: dict[str, Tensor], sigma: float, seed: int) -> dict[str, Tensor]:
    """A copy with Gaussian noise added to every matrix, in units of the matrix's own standard deviation.

    The experts of a mixture, stacked [experts, …], get noise in units of the whole stack's deviation.

    The noise is the same direction for every `sigma`, so that the cost grows smoothly with it.

    Args:
        tensors: a block's parameters by name.
        sigma: noise amplitude over the standard deviation of each matrix.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    damaged = {}
    for name in sorted(tensors):
        value = tensors[name]
        if value.ndim in (2, 3):
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
            damaged[name] = value + sigma * value.std() * noise
        else:
            damaged[name] = value
    return damaged
