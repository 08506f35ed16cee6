"""Do the intervals cover where few documents decide? The tables of docs/validity.md.

    python -m bench.coverage [--draws 400]

Differences per token are drawn with a true mean of 0 and a tail to the left (a few documents lose much), over documents
of 50 to 500 tokens. A gain is claimed falsely where the lower end lies above 0, a loss where the upper end lies below:
each should happen in 2.5% of the samples, in any of the columns together. The last column says how many of the false
gains come in samples that lack the worst documents, one in 20 of all.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from peelbound.service.statistics import PairedSums, paired_intervals

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

REPLICATES = 1000
WORST = 0.05
"""Share of the documents that count as the worst."""


def _lognormal(sigma: float) -> Draw:
    return lambda rng, shape: math.exp(sigma**2 / 2) - rng.lognormal(0, sigma, shape)


def _rare(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    differences: Array = 0.05 - (rng.random(shape) < 0.05) + rng.normal(0, 0.02, shape)
    return differences


DIFFERENCES: Mapping[str, Draw] = MappingProxyType(
    {
        "normal": lambda rng, shape: rng.normal(size=shape),
        "Student's t, 4 degrees": lambda rng, shape: rng.standard_t(4, shape),
        "log-normal, σ = 0.5": _lognormal(0.5),
        "log-normal, σ = 1": _lognormal(1.0),
        "log-normal, σ = 1.5": _lognormal(1.5),
        "one document in 20 loses 1, noise of 0.02": _rare,
    }
)


def false_claims(draw: Draw, documents: int, columns: int, draws: int) -> tuple[float, float, float]:
    """Shares of samples with a false gain, with a false loss, and with a false gain that lacks the worst documents."""
    rng = np.random.default_rng([documents, columns])
    worst = np.quantile(draw(np.random.default_rng(0), (1_000_000, 1)), WORST)
    gains = losses = lacking = 0
    for seed in range(draws):
        tokens = rng.integers(50, 500, documents).astype(np.float64)
        differences = draw(rng, (documents, columns))
        sums = PairedSums(differences * tokens[:, None], tokens)
        found = paired_intervals(sums, replicates=REPLICATES, seed=seed).intervals
        claimed = [column for column, interval in enumerate(found) if interval.low > 0]
        gains += bool(claimed)
        lacking += any(differences[:, column].min() > worst for column in claimed)
        losses += any(interval.high < 0 for interval in found)
    return gains / draws, losses / draws, lacking / draws


def main() -> None:
    """Draw, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    draws = parser.parse_args().draws
    table = Table("differences", "documents", "columns", "false gain", "false loss", "false gain, worst lacking")
    for name, draw in DIFFERENCES.items():
        for documents in (30, 100):
            for columns in (1, 6):
                shares = false_claims(draw, documents, columns, draws)
                table.add_row(name, str(documents), str(columns), *(f"{100 * share:.1f}%" for share in shares))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
