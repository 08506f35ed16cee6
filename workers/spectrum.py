"""How far a block's weights are from random ones: no data needed.

The singular values of a matrix with independent entries follow the law of Marchenko and Pastur (1967, Mat. Sb. 72:507),
whatever the entries' distribution; training leaves its trace in them (Martin and Mahoney 2021, JMLR 22:165, arXiv
1810.01075; Thamm, Staats and Rosenow 2022, arXiv 2203.14661). A block that was never trained, or was initialised again,
has the spectra of random matrices and norms that are constant, as their initialisation leaves them.

The null is that of finite matrices: spectra of drawn Gaussian matrices of the same shape, rather than the law's limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float64]

MOST_CHANNELS = 768
"""Larger matrices are judged by as many of their rows and columns, evenly spread: the time grows with the cube. A spike
of the whole spectrum stands out of a part that holds the share s of rows and columns by √s as much."""
_DRAWS = 24


@dataclass(frozen=True)
class Untouched:
    """What a block's weights show of training."""

    departure: float
    """Of the matrix that departs most: the larger of two z-values against random matrices of its shape, of the
    Kolmogorov-Smirnov distance between the spectra and of the largest singular value. Random: below about 4."""
    matrix: str
    """Its name within the block; empty where the block has no matrix that varies."""
    constant_norms: bool
    """Whether every parameter that scales channels holds one value throughout; True if there is none."""


@dataclass(frozen=True)
class _Null:
    quantiles: Values
    distance: float
    distance_spread: float
    largest: float
    largest_spread: float


def untouched(tensors: Mapping[str, Tensor]) -> Untouched:
    """Judge a block's parameters by name. Biases, which may start at zero and stay there, say nothing."""
    departures = {name: d for name, t in tensors.items() if t.ndim >= 2 and (d := departure(t)) is not None}
    gains = [t for name, t in tensors.items() if t.ndim == 1 and not name.endswith("bias") and t.numel() > 1]
    furthest = max(departures, key=lambda name: departures[name], default="")
    return Untouched(departures.get(furthest, 0.0), furthest, all(bool((gain == gain[0]).all()) for gain in gains))


def departure(weight: Tensor) -> float | None:
    """Distance of a matrix [out, in] from random ones of its shape, as a z-value; None where it does not vary.

    Of a stack of matrices [experts, …] the first is judged. The mean is taken away and the scale divided out first, so
    that nothing but the arrangement of the entries counts.
    """
    matrix = weight.detach().flatten(0, -3)[0] if weight.ndim > 2 else weight.detach()
    matrix = _sample(matrix).to("cpu", torch.float64)
    spread = float(matrix.std())
    if min(matrix.shape) < 2 or not spread > 0:
        return None
    values, null = _spectrum((matrix - matrix.mean()) / spread), _null(*matrix.shape)
    by_shape = (_distance(values, null.quantiles) - null.distance) / null.distance_spread
    by_largest = (float(values[-1]) - null.largest) / null.largest_spread
    return max(by_shape, by_largest)


def _sample(matrix: Tensor) -> Tensor:
    for axis, size in enumerate(matrix.shape):
        if size > MOST_CHANNELS:
            matrix = matrix.index_select(axis, torch.linspace(0, size - 1, MOST_CHANNELS).long().to(matrix.device))
    return matrix


def _spectrum(matrix: Tensor) -> Values:
    """Singular values, ascending, by the smaller Gram matrix: the largest are what counts, and those are exact."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    values: Values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().numpy()
    return values


@lru_cache
def _null(rows: int, columns: int) -> _Null:
    generator = torch.Generator().manual_seed(rows * 100_003 + columns)
    drawn = []
    for _ in range(_DRAWS):
        matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        drawn.append(_spectrum((matrix - matrix.mean()) / matrix.std()))
    draws = np.stack(drawn)
    total = draws.sum(axis=0)
    distances = [_distance(own, (total - own) / (_DRAWS - 1)) for own in draws]
    largest = draws[:, -1]
    return _Null(
        draws.mean(axis=0),
        float(np.mean(distances)),
        max(float(np.std(distances, ddof=1)), 0.5 / len(total)),  # distances come in steps of 1 / values
        float(largest.mean()),
        float(largest.std(ddof=1)),
    )


def _distance(values: Values, quantiles: Values) -> float:
    """Kolmogorov-Smirnov distance between two sets of as many ascending values."""
    grid = np.concatenate([values, quantiles])
    one, other = (np.searchsorted(v, grid, side="right") / len(v) for v in (values, quantiles))
    return float(np.abs(one - other).max())
