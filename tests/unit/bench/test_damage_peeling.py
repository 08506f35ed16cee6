"""A block is planted where it is said to be, and everything else stays."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from bench.damage.peeling import blocks_of, cell_table, plant, planted_table, spearman, summary
from tests.tiny_models import random_model


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("kind", ["copy", "near identity"])
def test_one_block_is_inserted_and_the_others_are_the_models_own(family: str, kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    before = random_model(family, vocab_size=64)
    before.save_pretrained(tmp_path / "before")
    (tmp_path / "before" / "tokenizer.json").write_text("{}")
    plant(tmp_path / "before", tmp_path / "after", kind, 2)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "after", dtype=torch.float32)
    own, made = blocks_of(before), blocks_of(after)
    assert len(made) == len(own) + 1
    for source, target in ((0, 0), (1, 1), (2, 3)):
        assert _same(own[source], made[target])
    assert _same(own[1], made[2]) == (kind == "copy")
    ids = torch.arange(12)[None]
    assert torch.equal(before.get_input_embeddings()(ids), after.get_input_embeddings()(ids))
    if kind == "near identity":
        with torch.no_grad():
            one, other = before(ids).logits, after(ids).logits
        assert float((one - other).norm() / one.norm()) < 0.2


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    tensors = other.state_dict()
    return all(torch.equal(t, tensors[name]) for name, t in one.state_dict().items())


def test_rank_correlation() -> None:
    assert spearman([1.0, 2.0, 3.0], [10.0, 20.0, 90.0]) == pytest.approx(1.0)
    assert spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert spearman([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]) == pytest.approx(0.8)


def cell(cost: float) -> dict[str, Any]:
    return {"estimate": cost, "low": cost - 0.001, "high": cost + 0.001, "standard_error": 0.0005, "documents": 40}


CELLS = [cell(0.02), cell(0.004), cell(0.006)]
MODELS = [
    {
        "model": "one",
        "cells": CELLS,
        "healed": [0.015, -0.002, 0.003],
        "planted": [{"kind": "copy", "after": 2, "cells": CELLS}],
    },
    {"model": "other", "cells": [cell(0.03)] * 3, "healed": [0.03, 0.02, 0.01], "planted": []},
]


def lines(shown: Table) -> list[list[str]]:
    console = Console(width=200, file=StringIO())
    with console.capture() as captured:
        console.print(shown)
    rows = [line.strip("│").split("│") for line in captured.get().splitlines() if line.startswith("│")]
    return [[part.strip() for part in row] for row in rows]


def test_a_pair_of_blocks_is_a_line() -> None:
    found = lines(cell_table(MODELS))
    assert len(found) == 6
    assert found[1] == ["one", "2–3", "0.0040", "0.0030 to 0.0050", "-0.0020", "yes"]
    assert found[0][-1] == ""


def test_a_planted_block_has_the_cheapest_pair_and_all_that_are_redundant() -> None:
    assert lines(planted_table(MODELS)) == [
        ["one", "copy", "3", "2–3", "0.0040", "0.0030 to 0.0050", "2–3, 3–4"],
    ]


def test_the_summary_tells_the_redundant_from_the_others() -> None:
    assert summary(MODELS[:1]).splitlines() == [
        "one: rank correlation 1.00",
        "all pairs: rank correlation 1.00",
        "redundant: 2 pairs, after healing -0.0020 to 0.0030 nats",
        "others: 1 pairs, after healing 0.0150 to 0.0150 nats",
    ]
