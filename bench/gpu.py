"""How well blocks of real size use the device: share of its peak, time per block, by arithmetic. Random weights.

    python -m bench.gpu [--shapes 135m 1b 8b] [--arithmetics float32 bfloat16 bfloat16+compile] [--device cuda]
                        [--sequences 64] [--length 512] [--grain 8] [--steps 12]

Takes the first GPU if there is one, else the CPU. It times the worker's own functions: a forward pass, a step of the
walk back and a whole corrected solve (`--steps` of Adam), each after one that is not counted, in which blocks are
compiled.

FLOPs are those of the matrix products, counted by torch while the uncompiled block runs (attention as if it were not
causal). They are compared with what one square product of matrices, large enough to be limited by arithmetic, reaches
on the same device, in the same precision and in the same run: not with a data sheet.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
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
    """Per second, of one product of matrices."""
    peak_bytes: int
    """Of GPU memory, 0 on the CPU."""

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
        self.before, self.gradient = (draw.standard_normal(size, np.float32) for _ in range(2))
        self.after = self.forward()

    def forward(self) -> Floats:
        """One pass."""
        return passes.forward(self.skeleton, 1, self.skeleton.fresh_block(1, 0), self.before, self.budget.grain)

    def backward(self) -> None:
        """One step of the walk back."""
        block = self.skeleton.fresh_block(1, 0)
        passes.backward(self.skeleton, 1, block, self.before, self.gradient, self.budget.grain)

    def solve(self) -> None:
        """One block reference."""
        settings = CorrectedSettings(0.3, self.budget.steps, 1e-4, gradient_clip=5.0, outlier=10.0)
        documents = np.arange(self.budget.sequences)[:, None] + np.zeros(self.before.shape[:2], np.int64)
        block = self.skeleton.fresh_block(1, 0)
        solver.solve_corrected(
            self.skeleton, 1, block, self.before, self.after, self.gradient, documents, settings, self.budget.grain,
            lambda _: None,
        )  # fmt: skip


def counted(work: Callable[[], object]) -> int:
    """FLOPs of its matrix products."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # of the CPU's fused attention torch does not know the FLOPs
        work()
    return int(counter.get_total_flops())


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done it."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_flops(precision: str, device: torch.device) -> float:
    """FLOP/s of the best of five products of square matrices."""
    size = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    a @ b
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(5))


def measure(shape: str, arithmetic: str, budget: Budget, device: torch.device) -> Row:
    """One row."""
    plain = Block(SHAPES[shape], Arithmetic(), Budget(1, budget.length, 1, 1), torch.device("cpu"))
    one_step, two_steps = counted(plain.solve), counted(_with_steps(plain, 2).solve)
    whole = budget.sequences * (one_step + (budget.steps - 1) * (two_steps - one_step))
    chosen = ARITHMETICS[arithmetic]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    block = Block(SHAPES[shape], chosen, budget, device)
    first = timed(block.solve, device)
    block.forward()
    block.backward()
    return Row(
        shape,
        arithmetic,
        forward_seconds=timed(block.forward, device),
        backward_seconds=timed(block.backward, device),
        solve_seconds=timed(block.solve, device),
        first_solve_seconds=first,
        solve_flops=float(whole),
        peak_flops=product_flops(chosen.precision, device),
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    )


def _with_steps(block: Block, steps: int) -> Block:
    block.budget = Budget(block.budget.sequences, block.budget.length, block.budget.grain, steps)
    return block


def table(rows: list[Row], device: torch.device, budget: Budget) -> Table:
    """The rows, and what they are compared with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    result = Table(
        title=f"{name}: {budget.sequences} × {budget.length} tokens, {budget.steps} steps, grain {budget.grain}",
        caption="share: FLOP/s of the solve's matrix products over those of one large product of matrices here",
    )
    for column in ("shape", "arithmetic", "forward, s", "back, s", "solve, s", "first solve, s"):
        result.add_column(column, justify="left" if column in ("shape", "arithmetic") else "right")
    for column in ("solve, TFLOP/s", "one product, TFLOP/s", "share", "GPU memory, GB"):
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
    parser.add_argument("--out", type=Path, default=Path("bench/out/gpu.json"))
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    budget = Budget(given.sequences, given.length, given.grain, given.steps)
    console, rows = Console(width=140), list[Row]()
    for shape in given.shapes:
        for arithmetic in given.arithmetics:
            rows.append(measure(shape, arithmetic, budget, device))
            save(given.out, [{**asdict(row), "share": row.share} for row in rows])
            console.print(table(rows[-1:], device, budget))
    console.print(table(rows, device, budget))
    return rows


if __name__ == "__main__":
    main()
