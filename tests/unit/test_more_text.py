"""What is said to be enough text is enough: the numbers are given to the packing itself."""

import numpy as np
import pytest

from peelbound.service.more_text import Sequences, more_text
from peelbound.workers.calibration import CalibrationSet, build, inline_documents

LENGTH = 16


def packed(count: int, tokens: int, budgets: dict[str, int]) -> CalibrationSet:
    rng = np.random.default_rng(count)
    documents = inline_documents(token_ids=[rng.integers(1, 1000, tokens).tolist() for _ in range(count)])
    return build(
        documents,
        tokenizer_json=None,
        vocab_size=1000,
        eos_id=0,
        sequence_length=LENGTH,
        budgets=budgets,
        seed=0,
    )


@pytest.mark.parametrize("tokens", [7, 10, 40, 300])
@pytest.mark.parametrize(("supplied", "check"), [(40, 24), (400, 24), (40, 300), (400, 8)])
def test_check_gets_the_documents_that_it_needs(supplied: int, check: int, tokens: int) -> None:
    budgets = {"fit": 16, "select": 8, "check": check}
    before = packed(supplied, tokens, budgets).splits["check"]
    asked = Sequences(**budgets, length=LENGTH, checked=len(before.ids))
    wanted = 5 * before.documents
    more = more_text(wanted, before.documents, asked)
    after = packed(more.documents, tokens, budgets | {"check": more.check_sequences}).splits["check"]
    assert wanted <= after.documents <= wanted + 1


def test_it_is_not_asked_to_lower_a_budget() -> None:
    """Where documents were few, more of them do."""
    more = more_text(60, 30, Sequences(fit=64, select=32, check=96, length=128, checked=15))
    assert (more.check_sequences, more.documents) == (96, 120)
