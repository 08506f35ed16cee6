"""How well blocks of real size use the device: share of its peak, time per block, by arithmetic. Random weights.

    python -m bench.gpu [--shapes 135m 1b 8b] [--arithmetics float32 bfloat16 bfloat16+compile] [--device cuda]
                        [--sequences 64] [--length 512] [--grain 8] [--steps 12] [--repeats 3]

Takes the first GPU if there is one, else the CPU. It times the worker's own functions under a worker's settings (one
thread, deterministic algorithms): a forward pass, a step of the walk back and a whole corrected solve (`--steps` of
Adam), from arrays on the host to arrays on the host. What counts is the median of `--repeats`, after one that is not
counted, in which blocks are compiled; torch's caches of compiled code on disk are not used. To make a block of its
stored bytes is not part of it.

FLOPs are those of the matrix products, counted by torch while the uncompiled block runs (attention as if it were not
causal). They are compared with what square products of matrices, large enough to be limited by arithmetic, reach one
after another on the same device, in the same precision and in the same run: not with a data sheet. float32 is float32
there and here: no TF32.
"""

import argparse
import copy
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from bench.local import save
from peelbound.workers import passes, solver
from peelbound.workers.architecture import Architecture
from peelbound.workers.passes import Floats
from peelbound.workers.recipes import Arithmetic, CorrectedSettings
from peelbound.workers.skeleton import Skeleton

ARITHMETICS = {
    "float32": Arithmetic(),
    "bfloat16": Arithmetic("bfloat16"),
    "float32+compile": Arithmetic(compile=True),
    "bfloat16+compile": Arithmetic("bfloat16", compile=True),
}


CPU = torch.device("cpu")
PRODUCT_SECONDS = 0.2
"""How long one look at the products takes at least: the clocks of a GPU and what a launch costs are out of it then."""


@dataclass(frozen=True)
class Shape:
    """A block of a llama-shaped model."""

    hidden: int
    intermediate: int
    heads: int
    kv: int


SHAPES = {
    "tiny": Shape(64, 176, 4, 2),
    "135m": Shape(576, 1536, 9, 3),  # SmolLM2-135M
    "1b": Shape(2048, 8192, 32, 8),  # Llama 3.2 1B
    "8b": Shape(4096, 14336, 32, 8),  # Llama 3.1 8B
}


@dataclass(frozen=True)
class Budget:
    """Tokens and steps of a solve."""

    sequences: int
    length: int
    grain: int
    steps: int


@dataclass(frozen=True)
class Row:
    """One shape in one arithmetic."""

    shape: str
    arithmetic: str
    forward_seconds: float
    backward_seconds: float
    solve_seconds: float
    """A whole block reference: what an audit takes per block and candidate ρ."""
    first_solve_seconds: float
    """The same the first time, compilation included."""
    solve_flops: float
    peak_flops: float
    """Per second, of products of matrices."""
    peak_bytes: int
    """Of GPU memory in tensors, states and block included; 0 on the CPU."""

    @property
    def share(self) -> float:
        """Of the product's FLOP/s that the solve reaches."""
        return self.solve_flops / self.solve_seconds / self.peak_flops


class Block:
    """A block with random weights, its states, and the worker's passes over them."""

    def __init__(self, shape: Shape, arithmetic: Arithmetic, budget: Budget, device: torch.device) -> None:
        config = LlamaConfig(
            vocab_size=256, hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=1,
            num_attention_heads=shape.heads, num_key_value_heads=shape.kv, max_position_embeddings=8192,
            tie_word_embeddings=True, architectures=["LlamaForCausalLM"],
        )  # fmt: skip
        architecture, draw = Architecture.from_config_json(config.to_dict()), np.random.Generator(np.random.Philox(0))
        rest = {
            "model.embed_tokens.weight": torch.zeros(256, shape.hidden),
            "model.norm.weight": torch.ones(shape.hidden),
        }
        self.skeleton = Skeleton(architecture, rest, device, arithmetic)
        self.budget = budget
        size = (budget.sequences, budget.length, shape.hidden)
        self.before, self.after, self.gradient = (draw.standard_normal(size, np.float32) for _ in range(3))
        self._module = self.skeleton.fresh_block(1, 0)

    def copy(self) -> nn.Module:
        """A block to be used up, on the device. Its weights were drawn on the CPU, which takes longer than a pass."""
        return copy.deepcopy(self._module)

    def forward(self, module: nn.Module) -> Floats:
        """One pass."""
        return passes.forward(self.skeleton, 1, module, self.before, self.budget.grain)

    def backward(self, module: nn.Module) -> None:
        """One step of the walk back."""
        passes.backward(self.skeleton, 1, module, self.before, self.gradient, self.budget.grain)

    def solve(self, module: nn.Module) -> None:
        """One block reference."""
        settings = CorrectedSettings(0.3, self.budget.steps, 1e-4, gradient_clip=5.0, outlier=10.0)
        documents = np.arange(self.budget.sequences)[:, None] + np.zeros(self.before.shape[:2], np.int64)
        solver.solve_corrected(
            self.skeleton, 1, module, self.before, self.after, self.gradient, documents, settings, self.budget.grain,
            lambda _: None,
        )  # fmt: skip


def counted(work: Callable[[], object]) -> int:
    """FLOPs of its matrix products."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # of the CPU's fused attention torch does not know the FLOPs
        work()
    return int(counter.get_total_flops())


@functools.cache
def solve_flops(shape: str, length: int, sequences: int, steps: int) -> float:
    """Of a whole solve, from those of one sequence with one step and with two."""
    one = Block(SHAPES[shape], Arithmetic(), Budget(1, length, 1, 1), CPU)
    first = counted(lambda: one.solve(one.copy()))
    one.budget = replace(one.budget, steps=2)
    second = counted(lambda: one.solve(one.copy()))
    return float(sequences * (first + (steps - 1) * (second - first)))


def timed(work: Callable[[nn.Module], object], block: Block, device: torch.device) -> float:
    """Seconds until the device has done it, with a block of its own that is there before the clock starts."""
    module = block.copy()
    _wait(device)
    start = time.perf_counter()
    work(module)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_flops(precision: str, device: torch.device) -> float:
    """FLOP/s of products of square matrices, one after another: the best of five looks."""
    size = 8192 if device.type == "cuda" else 512  # many a CPU emulates bfloat16, a hundred times slower
    a, b, into = (torch.randn(size, size, device=device, dtype=getattr(torch, precision)) for _ in range(3))
    count, seconds = 1, _products(a, b, into, 1)  # the first chooses its algorithm and is not counted
    while (seconds := _products(a, b, into, count)) < PRODUCT_SECONDS:
        count = max(count + 1, min(8 * count, round(1.2 * count * PRODUCT_SECONDS / max(seconds, 1e-9))))
    best = min(seconds, *(_products(a, b, into, count) for _ in range(4)))
    return 2 * size**3 * count / best


def _products(a: Tensor, b: Tensor, into: Tensor, count: int) -> float:
    """Seconds that the device takes for so many; a GPU's own clock tells, so that no launch and no wait counts."""
    if a.device.type != "cuda":
        start = time.perf_counter()
        for _ in range(count):
            torch.mm(a, b, out=into)
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        torch.mm(a, b, out=into)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


@contextmanager
def as_a_worker() -> Iterator[None]:
    """One thread, deterministic algorithms, nothing compiled found on disk: as in a worker that has just started."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when the first product makes cuBLAS's handle
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def measure(shape: str, arithmetic: str, budget: Budget, device: torch.device, repeats: int = 1) -> Row:
    """One row."""
    chosen = ARITHMETICS[arithmetic]
    flops = solve_flops(shape, budget.length, budget.sequences, budget.steps)
    peak_flops = product_flops(chosen.precision, device)  # also starts the device, outside of what is timed
    torch._dynamo.reset()  # or the row before keeps its programs and their weights
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    block = Block(SHAPES[shape], chosen, budget, device)
    first = timed(block.solve, block, device)
    forward, backward, solve = (
        _median(work, block, device, repeats) for work in (block.forward, block.backward, block.solve)
    )
    return Row(
        shape,
        arithmetic,
        forward_seconds=forward,
        backward_seconds=backward,
        solve_seconds=solve,
        first_solve_seconds=first,
        solve_flops=flops,
        peak_flops=peak_flops,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    )


def _median(work: Callable[[nn.Module], object], block: Block, device: torch.device, repeats: int) -> float:
    timed(work, block, device)
    return statistics.median(timed(work, block, device) for _ in range(repeats))


def table(rows: list[Row], device: torch.device, budget: Budget) -> Table:
    """The rows, and what they are compared with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    result = Table(
        title=f"{name}: {budget.sequences} × {budget.length} tokens, {budget.steps} steps, grain {budget.grain}",
        caption="share: FLOP/s of the solve's matrix products over those of large products of matrices here",
    )
    for column in ("shape", "arithmetic", "forward, s", "back, s", "solve, s", "first solve, s"):
        result.add_column(column, justify="left" if column in ("shape", "arithmetic") else "right")
    for column in ("solve, TFLOP/s", "products, TFLOP/s", "share", "GPU memory, GB"):
        result.add_column(column, justify="right")
    for row in rows:
        seconds = (row.forward_seconds, row.backward_seconds, row.solve_seconds, row.first_solve_seconds)
        rates = (row.solve_flops / row.solve_seconds / 1e12, row.peak_flops / 1e12)
        result.add_row(
            row.shape, row.arithmetic, *(f"{s:.3f}" for s in seconds), *(f"{r:.3f}" for r in rates),
            f"{row.share:.0%}", f"{row.peak_bytes / 1e9:.1f}",
        )  # fmt: skip
    return result


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["135m", "1b", "8b"])
    parser.add_argument("--arithmetics", nargs="+", choices=list(ARITHMETICS), default=list(ARITHMETICS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--grain", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/out/gpu.json"))
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    budget = Budget(given.sequences, given.length, given.grain, given.steps)
    console, rows = Console(width=140), list[Row]()
    with as_a_worker():
        for shape in given.shapes:
            for arithmetic in given.arithmetics:
                rows.append(measure(shape, arithmetic, budget, device, given.repeats))
                save(given.out, [{**asdict(row), "share": row.share} for row in rows])
                console.print(table(rows[-1:], device, budget))
        console.print(table(rows, device, budget))
    return rows


if __name__ == "__main__":
    main()
