"""WeightWatcher's number, computed here from its definition: how heavy the tail of a matrix's spectrum is.

Martin and Mahoney 2021 (JMLR 22:165, arXiv 1810.01075) fit a power law to the tail of the eigenvalues of WᵀW, after
Clauset, Shalizi and Newman 2009 (SIAM Review 51:661, arXiv 0706.1062): the tail begins where the Kolmogorov-Smirnov
distance between the fit and the eigenvalues is least. A large exponent is read as under-trained, one between 2 and 6 as
well trained. These few lines are ours; the program itself is compared in `bench/versus`.
"""

from collections.abc import Mapping
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from peelbound.workers.spectrum import MOST_CHANNELS

LEAST_TAIL = 8
"""Eigenvalues that a tail has at least."""


def block_alpha(tensors: Mapping[str, Tensor]) -> float:
    """Mean exponent over the matrices of a block; NaN where none has a spectrum to fit."""
    found = [alpha(t) for t in tensors.values() if t.ndim == 2 and min(t.shape) > LEAST_TAIL]
    fitted = [a for a in found if np.isfinite(a)]
    return fmean(fitted) if fitted else float("nan")


def alpha(weight: Tensor) -> float:
    """Exponent of the power law that fits the tail of the eigenvalues of a matrix [out, in] best; NaN if none does."""
    x = np.sort(torch.linalg.svdvals(weight[:MOST_CHANNELS, :MOST_CHANNELS].double()).numpy() ** 2)
    x = x[x > 1e-12 * x[-1]]
    best = (np.inf, np.nan)
    for start in range(len(x) - LEAST_TAIL):
        tail = x[start:]
        if tail[-1] <= tail[0]:
            continue
        exponent = 1 + len(tail) / np.log(tail / tail[0]).sum()  # maximum likelihood, Clauset's equation 3.1
        fitted = 1 - (tail / tail[0]) ** (1 - exponent)
        distance = np.abs(fitted - np.arange(len(tail)) / len(tail)).max()
        if distance < best[0]:
            best = (float(distance), float(exponent))
    return best[1]
