"""What no interval knows: documents that are too rare to be among those of check."""

from collections.abc import Iterable

from peelbound.service.schemas.report import Interval

_ENOUGH = 100
"""Check documents from which nothing is said any more: what is missing from all of them befalls 3 in 100 at most."""


def rare_document_caveats(gains: Iterable[Interval], documents: int) -> list[str]:
    """A word on gains that are shown (`low` above 0) on few documents.

    By the rule of three (Hanley and Lippman-Hand 1983, JAMA 249:1743): what befalls 3 in N documents is missing from
    all N with a probability of 5%. A sample says nothing of what it lacks, so this goes by the number of documents.

    Args:
        gains: on check, in nats.
        documents: of check.
    """
    if documents >= _ENOUGH or not any(gain.low > 0 for gain in gains):
        return []
    return [
        f"A gain is shown on {documents} check documents: what befalls up to one document in {round(documents / 3)} "
        "may be missing from all of them (at 95%). Where such documents would lose by it, the gain is overstated and "
        "its interval cannot know; more documents help."
    ]
