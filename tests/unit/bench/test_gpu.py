"""The device bench runs where there is no GPU, and counts what a block's products of matrices take."""

from pathlib import Path

import pytest
import torch

from bench import gpu
from peelbound.workers.recipes import Arithmetic

CPU = torch.device("cpu")


def test_a_row_for_each_shape_and_arithmetic(tmp_path: Path) -> None:
    budget = ["--sequences", "2", "--length", "16", "--grain", "1", "--steps", "2"]
    chosen = ["--shapes", "tiny", "--arithmetics", "float32", "bfloat16", "--device", "cpu"]
    rows = gpu.main([*chosen, *budget, "--out", str(tmp_path / "gpu.json")])
    assert [(row.shape, row.arithmetic, row.peak_bytes) for row in rows] == [
        ("tiny", "float32", 0),
        ("tiny", "bfloat16", 0),
    ]
    assert all(row.share > 0 for row in rows)
    assert (tmp_path / "gpu.json").exists()


def test_flops_are_those_of_the_blocks_products() -> None:
    shape, tokens = gpu.SHAPES["tiny"], 16
    block = gpu.Block(shape, Arithmetic(), gpu.Budget(1, tokens, 1, 1), CPU)
    matrices = sum(p.numel() for p in block.skeleton.fresh_block(1, 0).parameters() if p.ndim == 2)
    attention = 4 * tokens * tokens * shape.hidden
    assert gpu.counted(block.forward) == pytest.approx(2 * matrices * tokens + attention, rel=0.01)
