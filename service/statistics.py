"""Intervals, scores and power, with documents as clusters.

Every measurement is a sum per document over its tokens, and every estimate a ratio of sums, Σ differences / Σ tokens:
documents weigh by their tokens, and what varies from document to document is what the uncertainty counts. Standard
errors are those of the linearised ratio (Cochran, Sampling Techniques, 3rd ed., section 6.4); intervals are
equal-tailed studentised cluster bootstraps (Efron and Tibshirani, An Introduction to the Bootstrap, section 12.5), over
several columns jointly by the largest and the smallest t (Romano and Wolf 2005, Econometrica 73:1237). Each end has an
error of its own: where a few documents lose much, a symmetric interval claims false gains at four times its level.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peelbound.service.schemas.report import Interval, Score

Array = NDArray[np.float64]

_POWER_QUANTILE = 0.8416
"""Normal quantile of 0.8: how far beyond the critical value an effect must lie to be seen with that probability."""

_CHUNK_COUNTS = 4_000_000
"""Resampling weights held at once (32 MB)."""

_SMALLEST_SPREAD = 0.1
"""A replicate's standard error is taken as at least this share of the sample's own. A column that differs in hardly any
document has replicates without one of them, whose standard error is 0 and whose t would be infinite."""


@dataclass(frozen=True)
class PairedSums:
    """Sums per document of one or more paired differences.

    Attributes:
        difference_sums: float64 [D, K], a difference of losses summed over a document's tokens; K comparisons.
        tokens: [D], tokens with a loss. Documents without any are no clusters and are left out.
    """

    difference_sums: Array
    tokens: Array | NDArray[np.int64]

    def __post_init__(self) -> None:
        sums, tokens = np.asarray(self.difference_sums, np.float64), np.asarray(self.tokens, np.float64)
        if sums.ndim != 2 or tokens.shape != sums.shape[:1]:
            raise ValueError(f"difference_sums {sums.shape} and tokens {tokens.shape} are not [D, K] and [D]")
        if not (tokens > 0).any():
            raise ValueError("no document has a token")
        object.__setattr__(self, "difference_sums", sums[tokens > 0])
        object.__setattr__(self, "tokens", tokens[tokens > 0])

    @property
    def documents(self) -> int:
        """Number of clusters D."""
        return len(self.tokens)

    def estimates(self) -> Array:
        """Σ differences / Σ tokens, [K]."""
        means: Array = self.difference_sums.sum(axis=0) / self.tokens.sum()
        return means

    def residuals(self) -> Array:
        """What each document departs from the common ratio by, [D, K]; sums to 0 over documents."""
        return self.difference_sums - self.estimates() * self.tokens[:, None]

    def standard_errors(self) -> Array:
        """Of the linearised ratio, [K]; 0 from a single document, which shows no variation."""
        if self.documents == 1:
            return np.zeros(self.difference_sums.shape[1])
        scale = math.sqrt(self.documents / (self.documents - 1)) / self.tokens.sum()
        errors: Array = np.sqrt((self.residuals() ** 2).sum(axis=0)) * scale
        return errors


@dataclass(frozen=True)
class Intervals:
    """Intervals of one family, and the critical values by which they were made.

    Attributes:
        intervals: by column.
        below: low = estimate − below·SE: what decides whether a gain is shown.
        above: high = estimate + above·SE.
    """

    intervals: tuple[Interval, ...]
    below: float
    above: float


def paired_intervals(sums: PairedSums, *, level: float = 0.95, replicates: int = 10_000, seed: int) -> Intervals:
    """Two-sided intervals of all columns, jointly covering with probability `level` (one column: its own interval).

    Documents are drawn with replacement; each replicate is studentised by its own linearised standard error. A column
    without variation (a step of length zero) gets the interval [estimate, estimate] and leaves the others alone. All
    lower ends hold with probability 1 − (1 − level)/2, and so do all upper ends.
    """
    estimates, errors = sums.estimates(), sums.standard_errors()
    below, above = _critical_values(sums, errors, level, replicates, seed)
    return Intervals(
        tuple(
            Interval(
                estimate=float(estimate),
                low=float(estimate - below * error),
                high=float(estimate + above * error),
                standard_error=float(error),
                simultaneous=len(estimates) > 1,
            )
            for estimate, error in zip(estimates, errors, strict=True)
        ),
        below,
        above,
    )


def excess_gain_intervals(
    gains: PairedSums, *, level: float = 0.95, replicates: int = 10_000, seed: int
) -> Intervals | None:
    """Joint intervals of each block's gain minus the median gain of the other blocks; None for fewer than two blocks.

    The median is linearised: it is the mean of the one or two blocks that are in the middle on the whole sample, which
    makes each excess a paired difference like any other.
    """
    estimates = gains.estimates()
    blocks = len(estimates)
    if blocks < 2:
        return None
    ranked = np.argsort(estimates, kind="stable")
    excess = gains.difference_sums.copy()
    for block in range(blocks):
        others = ranked[ranked != block]
        middle = others[(blocks - 2) // 2 : (blocks - 1) // 2 + 1]
        excess[:, block] -= gains.difference_sums[:, middle].mean(axis=1)
    return paired_intervals(PairedSums(excess, gains.tokens), level=level, replicates=replicates, seed=seed)


def score(sums: Array, tokens: Array | NDArray[np.int64]) -> Score:
    """Mean per token of a scale score and its z-value, clustered by document.

    Args:
        sums: float64 [D], Σ ⟨∂CE/∂h, output⟩ over a document's tokens.
        tokens: [D].

    z is 0 where there is no variation (a block that adds nothing, or a single document).
    """
    paired = PairedSums(np.asarray(sums, np.float64)[:, None], tokens)
    mean, error = float(paired.estimates()[0]), float(paired.standard_errors()[0])
    return Score(mean=mean, z=mean / error if error > 0 else 0.0)


def smallest_visible_effect(standard_error: float, critical: float) -> float:
    """δ80: the effect that an interval of this critical value below would have told from 0 with probability 0.8."""
    return (critical + _POWER_QUANTILE) * standard_error


def documents_needed(documents: int, visible: float, tolerance: float) -> int:
    """About how many documents bring the smallest visible effect down to the tolerance: it falls as 1/√documents."""
    return math.ceil(documents * (visible / tolerance) ** 2)


def repeated(sums: PairedSums, documents: int) -> PairedSums:
    """As many documents, in turn those of `sums`: what a critical value for that number of documents is taken from.

    It is no sample: its standard errors are too small, see `error_on`. Critical values grow where documents are few:
    of 24 columns 12 from 6 documents, 3.7 from these repeated to 30, 3.5 from 30 (normal differences).
    """
    columns = sums.difference_sums.shape[1]
    rows: Array = np.resize(sums.difference_sums, (documents, columns))
    tokens: Array = np.resize(np.asarray(sums.tokens, np.float64), documents)
    return PairedSums(rows, tokens)


def error_on(sums: PairedSums, documents: int) -> Array:
    """Standard errors [K] to be expected of the same comparison on another number of documents like these.

    For a candidate that `select` turned down and `check` therefore never met: what check could have seen of it.
    """
    errors: Array = sums.standard_errors() * math.sqrt(sums.documents / documents)
    return errors


def _critical_values(sums: PairedSums, errors: Array, level: float, replicates: int, seed: int) -> tuple[float, float]:
    """Quantiles over bootstrap replicates of the largest t over columns and of minus the smallest, never below 0.

    Each is that of 1 − (1 − level)/2: replicates whose estimate lies far above, for their own spread, say how far the
    sample's may lie above the truth, and so move the lower end.

    With residuals e, a replicate with document counts w has the deviation δ = Σwe / Σwn and the squared standard error
    D/(D-1) · Σw(e-δn)² / (Σwn)²: matrix products of w with e, e², en, n and n².
    """
    varying = errors > 0
    if not varying.any():
        return 0.0, 0.0
    n = sums.tokens[:, None]
    e = sums.residuals()[:, varying]
    columns = np.concatenate([e, e**2, e * n, n, n**2], axis=1)
    documents, count = sums.documents, int(varying.sum())
    floor = _SMALLEST_SPREAD * errors[varying]
    rng = np.random.Generator(np.random.Philox(seed))
    largest, smallest = [], []
    chunk = max(1, _CHUNK_COUNTS // documents)
    for first in range(0, replicates, chunk):
        weights = _resample(rng, min(chunk, replicates - first), documents)
        totals = weights @ columns
        we, wee, wen = (totals[:, i * count : (i + 1) * count] for i in range(3))
        wn, wnn = totals[:, -2:-1], totals[:, -1:]
        delta = we / wn
        squares = np.maximum(wee - 2 * delta * wen + delta**2 * wnn, 0)
        spread = np.sqrt(squares * documents / (documents - 1)) / wn
        t = delta / np.maximum(spread, floor)
        largest.append(t.max(axis=1))
        smallest.append(-t.min(axis=1))
    rank = min(math.ceil((1 + level) / 2 * (replicates + 1)), replicates)
    below, above = (float(np.sort(np.concatenate(side))[rank - 1]) for side in (largest, smallest))
    # The digits beyond these are noise of the resampling and, in the last place, of the linear algebra library.
    return max(round(below, 6), 0.0), max(round(above, 6), 0.0)


def _resample(rng: np.random.Generator, replicates: int, documents: int) -> Array:
    """How often each document is drawn, float64 [replicates, D]; every row sums to D."""
    drawn = rng.integers(0, documents, size=(replicates, documents))
    drawn += np.arange(replicates)[:, None] * documents
    counts = np.bincount(drawn.ravel(), minlength=replicates * documents)
    return counts.reshape(replicates, documents).astype(np.float64)
