"""Neighbouring blocks that one fresh block can replace: what the peeling matrix says of pruning."""

from collections.abc import Sequence

from peelbound.service.schemas.report import Interval, MatrixCell


def is_redundant(cost: Interval, tolerance: float) -> bool:
    """Whether neighbouring blocks are more than their work takes.

    They are where one fresh block in their place costs less than the tolerance, with the upper end of its interval.
    Which of them could go is not said: of two blocks that do the same, either could.

    Args:
        cost: what the fresh block costs, in nats, on documents that its fit did not see.
        tolerance: nats that do not matter to the user.
    """
    return cost.high < tolerance


def most_redundant(matrix: Sequence[MatrixCell]) -> list[int]:
    """Positions of the cells whose blocks are redundant: those that replace most first, and of those the cheapest."""
    shown = [at for at, cell in enumerate(matrix) if cell.redundant]
    return sorted(shown, key=lambda at: (matrix[at].source - matrix[at].target, matrix[at].loss_increase.estimate))
