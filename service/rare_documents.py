"""What no interval knows: documents that are too rare to be among those measured on."""

from collections.abc import Iterable

from peelbound.service.schemas.report import Interval, MatrixCell

_ENOUGH = 100
"""Documents from which nothing is said any more: what is missing from all of them befalls 3 in 100 at most."""


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
        f"A gain is shown on {documents} check documents: {_missing(documents)} Where such documents would lose by it, "
        "the gain is overstated and its interval cannot know; more documents help."
    ]


def redundancy_caveats(matrix: Iterable[MatrixCell], documents: int) -> list[str]:
    """What blocks that are shown to be redundant are so for; the same word where that is on few documents of select."""
    if not any(cell.redundant for cell in matrix):
        return []
    said = [
        "Blocks are redundant at this point of training and on this text: a network that is trained on may come to "
        "need them."
    ]
    if documents < _ENOUGH:
        said.append(
            f"Blocks are shown to be redundant on {documents} select documents: {_missing(documents)} Where such "
            "documents need these blocks, the cost of replacing them is understated and its interval cannot know."
        )
    return said


def _missing(documents: int) -> str:
    return f"what befalls up to one document in {round(documents / 3)} may be missing from all of them (at 95%)."
