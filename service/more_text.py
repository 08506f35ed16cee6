"""What to supply, and to ask for, so that check has the documents that a verdict takes."""

import math
from dataclasses import dataclass

_OTHERS = 10
"""Documents that fit and select keep between them, however little they ask for (`peelbound.workers.calibration`)."""


@dataclass(frozen=True)
class Sequences:
    """How many sequences a request lets each split have, and how many check came to.

    Attributes:
        fit, select, check: of the request: at most so many.
        length: tokens in one.
        checked: what check was filled with.
    """

    fit: int
    select: int
    check: int
    length: int
    checked: int


@dataclass(frozen=True)
class MoreText:
    """What brings check to a number of documents."""

    check_sequences: int
    """To ask for."""
    documents: int
    """To supply in all, duplicates and the shortest not counted: those that check does not get go to fit and select."""


def more_text(wanted: int, documents: int, sequences: Sequences) -> MoreText:
    """What `wanted` check documents take, each with as many tokens as those had that check was measured on.

    Of long documents a sequence takes two and no more (`peelbound.workers.calibration`), so check must be allowed half
    a sequence for each, and as much as documents had where they were few and long. Documents are shared out as the
    splits' sequences are.

    Args:
        wanted: documents of check.
        documents: those that check had.
        sequences: of the request, and of check.
    """
    each = max(sequences.checked / documents, 0.5 + 1 / sequences.length)
    check = max(math.ceil(wanted * each), sequences.check)
    in_all = math.ceil(wanted * (sequences.fit + sequences.select + check) / check)
    return MoreText(check, max(in_all, wanted + _OTHERS))
