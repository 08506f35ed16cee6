"""Numbers of the weights alone, for comparison (no data)."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DRAWS = 24


def _values(weight: Tensor) -> NDArray[np.float64]:
    w = weight.double() - weight.double().mean()
    s = torch.linalg.svdvals(w / w.std().clamp_min(1e-30)).numpy()
    return np.sort(s)


@lru_cache
def _null(rows: int, columns: int) -> tuple[NDArray[np.float64], float, float, float, float]:
    generator = torch.Generator().manual_seed(rows * 100_003 + columns)
    draws = np.stack([_values(torch.randn(rows, columns, generator=generator)) for _ in range(DRAWS)])
    distances = [_distance(d, np.delete(draws, i, 0).mean(0)) for i, d in enumerate(draws)]
    tops = draws[:, -1]
    return draws.mean(0), float(np.mean(distances)), float(np.std(distances)), float(tops.mean()), float(tops.std())


def _distance(values: NDArray[np.float64], quantiles: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov distance between a spectrum and the mean random one (its quantiles)."""
    grid = np.concatenate([values, quantiles])
    one = np.searchsorted(values, grid, side="right") / len(values)
    other = np.searchsorted(quantiles, grid, side="right") / len(quantiles)
    return float(np.abs(one - other).max())


def against_random(weight: Tensor) -> dict[str, float]:
    """KS distance of the singular values from a random matrix's, and z-values of it and of the largest one."""
    values = _values(weight)
    quantiles, mean, spread, top, top_spread = _null(*weight.shape)
    distance = _distance(values, quantiles)
    wasserstein = float(np.abs(values - quantiles).mean() / quantiles.mean())
    return {
        "ks": distance,
        "ks_z": (distance - mean) / spread,
        "top_z": (float(values[-1]) - top) / top_spread,
        "w1": wasserstein,
    }


def alpha(weight: Tensor) -> float:
    """Exponent of a power law fitted to the tail of the eigenvalues, xmin by the smallest KS distance.

    After Clauset et al. 2009 (arXiv 0706.1062), as WeightWatcher uses it (arXiv 1810.01075): our own few lines, not
    that program.
    """
    x = np.sort(torch.linalg.svdvals(weight.double()).numpy() ** 2)
    x = x[x > 1e-12 * x[-1]]
    best = (np.inf, np.nan)
    for start in range(len(x) - 8):
        tail = x[start:]
        exponent = 1 + len(tail) / np.log(tail / tail[0]).sum() if tail[-1] > tail[0] else np.nan
        fitted = 1 - (tail / tail[0]) ** (1 - exponent)
        distance = np.abs(fitted - np.arange(len(tail)) / len(tail)).max()
        if distance < best[0]:
            best = (float(distance), float(exponent))
    return best[1]
