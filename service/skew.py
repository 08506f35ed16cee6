"""Where intervals hold less than they say: few documents whose differences are strongly skewed."""

import math
from collections.abc import Mapping

from peelbound.service.statistics import PairedSums

_SKEWNESS = 2.0
_DOCUMENTS = 30
_GROWTH = 0.25
"""The limit is 2 at 30 documents and grows with their fourth root, to 2.7 at 100 and 3.8 at 400, since more documents
forgive more skewness and show more of it. By `bench.coverage` (docs/validity.md): where one end of an interval errs in
8% of samples or more, instead of 2.5%, three of four samples lie beyond the limit; where it errs in less than 4%, at
most one in five does, but for many documents. A sample that lacks the rare documents cannot show them: no limit finds
those."""


def skew_limit(documents: int) -> float:
    """The skewness of the differences beyond which their interval is doubtful."""
    return _SKEWNESS * math.pow(documents / _DOCUMENTS, _GROWTH)


def skew_caveats(gains: Mapping[str, PairedSums]) -> list[str]:
    """A word on the gains whose differences are skewed too strongly for their documents; `gains` by whose they are.

    Each is one column.
    """
    named = [name for name, sums in gains.items() if abs(sums.skewness()[0]) > skew_limit(sums.documents)]
    if not named:
        return []
    documents = next(iter(gains.values())).documents
    return [
        f"A few of the {documents} check documents decide the gain of {_listed(named)}: differences as skewed as that "
        "make an interval miss the truth on one side two to four times as often as it says. More documents help."
    ]


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
