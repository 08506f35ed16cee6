"""docs/families.md is what the bench finds: held by some families of every kind, and by the list of all names."""

from pathlib import Path

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bench.families import Row, document_row, measure

DOCUMENT = (Path(__file__).parents[3] / "docs" / "families.md").read_text(encoding="utf-8")
ROWS = [line for line in DOCUMENT.splitlines() if line.startswith("| ") and not line.startswith("| `model_type`")]


def test_it_is_of_the_installed_library_and_has_a_row_for_each_of_its_families() -> None:
    """After a new version of transformers: `python -m bench.families --table docs/families.md`."""
    assert f"with transformers\n{transformers.__version__}. " in DOCUMENT
    assert sorted(row.split(" | ")[0].removeprefix("| ") for row in ROWS) == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.parametrize(
    "family",
    [
        "llama", "gpt2", "gemma3_text", "falcon", "bloom", "mpt", "gptj", "moshi",
        "mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3", "minimax",
        "bart", "gemma3", "musicgen", "qwen3_next", "lfm2", "glm_moe_dsa", "hrm_text", "git",
    ],
)  # fmt: skip
def test_its_rows_are_true(family: str) -> None:
    assert document_row(measure(family)) in ROWS


def test_what_differs_is_not_called_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: a skeleton that drops a block's last bit of work is found out."""
    from peelbound.workers.skeleton import Skeleton

    run = Skeleton.run
    monkeypatch.setattr(Skeleton, "run", lambda self, *args, **kwargs: run(self, *args, **kwargs) * 1.0001)
    with pytest.raises(AssertionError, match="llama is taken to be supported and differs"):
        measure("llama")


def test_long_reasons_stay_one_line_of_a_table() -> None:
    row = document_row(Row("f", "F", "refused", "model-shared-state", "x" * 500 + "|"))
    assert len(row) <= 120
    assert row.count("|") == 4
