"""The device bench runs where there is no GPU, and counts what a block's products of matrices take."""

from pathlib import Path

import pytest
import torch

from bench import gpu
from peelbound.workers.recipes import Arithmetic

CPU = torch.device("cpu")


def test_a_row_for_each_shape_and_arithmetic(tmp_path: Path) -> None:
    budget = ["--sequences", "2", "--length", "16", "--grain", "1", "--steps", "2", "--repeats", "1"]
    threads = torch.get_num_threads()
    chosen = ["--shapes", "tiny", "--arithmetics", "float32", "bfloat16", "--device", "cpu"]
    rows = gpu.main([*chosen, *budget, "--out", str(tmp_path / "gpu.json")])
    assert [(row.shape, row.arithmetic, row.peak_bytes) for row in rows] == [
        ("tiny", "float32", 0),
        ("tiny", "bfloat16", 0),
    ]
    assert all(row.share > 0 for row in rows)
    assert rows[0].solve_flops == rows[1].solve_flops > 0
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (threads, False)
    assert (tmp_path / "gpu.json").exists()


def test_flops_are_those_of_the_blocks_products() -> None:
    shape, tokens = gpu.SHAPES["tiny"], 16
    block = gpu.Block(shape, Arithmetic(), gpu.Budget(1, tokens, 1, 1), CPU)
    matrices = sum(p.numel() for p in block.skeleton.fresh_block(1, 0).parameters() if p.ndim == 2)
    attention = 4 * tokens * tokens * shape.hidden
    assert gpu.counted(lambda: block.forward(block.copy())) == pytest.approx(
        2 * matrices * tokens + attention, rel=0.01
    )


def test_a_solve_is_timed_with_a_block_of_its_own_that_is_there_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    block = gpu.Block(gpu.SHAPES["tiny"], Arithmetic(), gpu.Budget(2, 16, 1, 2), CPU)
    given: list[torch.nn.Module] = []
    monkeypatch.setattr(block.skeleton, "fresh_block", lambda *_: pytest.fail("weights are drawn while the clock runs"))
    for _ in range(2):
        gpu.timed(given.append, block, CPU)
        block.solve(given[-1])
    one, other = (module.state_dict() for module in given)
    assert all(torch.equal(one[name], other[name]) for name in one)  # neither began from the other's end
