"""Peelbound's quick audit beside WeightWatcher, tuned lens, AutoRound and the baseline recipe.

    python -m bench.versus [--out bench/out/versus] [--steps 300] [--only NAME …]

Two models are trained on the standard library's source, one sound and one with a frozen block. Each tool gets the same
checkpoint and the same tokens, an environment of its own with pinned requirements, one thread, and no network while it
runs. A tool that cannot be installed or fails is a row with its error.
"""

import argparse
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench.local import save
from bench.stdlib_corpus import Corpus
from bench.stdlib_models import Recipe, train_missing
from bench.versus.environments import REQUIREMENTS, Environment, environment, here, last_line
from bench.versus.measure import run
from bench.versus.ours import request
from bench.versus.table import Row, markdown, parse
from peelbound.service.controller.inputs import open_inputs
from peelbound.service.settings import Settings
from peelbound.workers.calibration import loss_mask

SEED, FROZEN = 100, 3
COMPETITORS = Path(__file__).parent / "competitors"


@dataclass(frozen=True)
class Tool:
    """A row of the table."""

    name: str
    label: str
    program: str
    """A competitor's script; or a verb of `bench.versus.ours`."""
    requirements: str | None
    """None: Peelbound itself."""


TOOLS = (
    Tool("peelbound", "Peelbound, quick audit", "audit", None),
    Tool("weightwatcher", "WeightWatcher", "spectral_alpha.py", "weightwatcher.txt"),
    Tool("tuned-lens", "tuned lens, 250 × 8", "translators.py", "tuned-lens.txt"),
    Tool("baseline", "baseline recipe, 400 × 8, two maps", "baseline.py", "baseline.txt"),
    Tool("auto-round", "AutoRound, every block, 80 × 8", "rounding.py", "auto-round.txt"),
    Tool("peelbound-blocks", "Peelbound, every block afresh, 560 × 1 a half", "blocks", None),
)


def models(out: Path, steps: int) -> tuple[Corpus, dict[str, tuple[Path, int | None]]]:
    """Train what is not trained yet: (checkpoint, damaged block) by name."""
    corpus = Corpus.in_directory(out / "corpus")
    recipes = {
        out / f"sound-{SEED}": Recipe(seed=SEED, steps=steps, save_at=(steps,)),
        out / f"frozen-{SEED}": Recipe(seed=SEED, steps=steps, save_at=(steps,), frozen_block=FROZEN),
    }
    return corpus, {
        directory.name.split("-")[0]: (checkpoint, recipes[directory].frozen_block)
        for directory, checkpoint in train_missing(corpus, recipes).items()
    }


def tokens(checkpoint: Path, corpus: Corpus, path: Path) -> Path:
    """The calibration set as an audit packs it: ids and masks of every split."""
    asked = request(checkpoint, corpus.held_out_path)
    calibration = asked.calibration.uri
    assert calibration is not None
    splits = open_inputs(asked, Settings(allow=[asked.checkpoint, calibration])).calibration.splits
    arrays: dict[str, np.ndarray[Any, Any]] = {f"{name}_ids": split.ids for name, split in splits.items()}
    arrays |= {f"{name}_mask": loss_mask(split) for name, split in splits.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type] # numpy's stubs take the arrays for allow_pickle
    return path


def compare(tool: Tool, where: Environment, model: str, checkpoint: Path, damaged: int | None, out: Path) -> Row:
    """Run one tool on one model."""
    if where.python is None:
        return Row(tool.label, model, damaged, None, None, where.error)
    result = out / "found" / f"{tool.name}-{model}.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)
    if tool.requirements is None:
        data = out / "models" / "corpus" / "held_out.jsonl"
        command = [str(where.python), "-m", "bench.versus.ours", tool.program, str(checkpoint), str(data), str(result)]
    else:
        script, data = COMPETITORS / tool.program, out / "found" / f"tokens-{model}.npz"
        command = [str(where.python), "-P", str(script), str(checkpoint), str(data), str(result)]
    try:
        cost = run(command, out / "found" / f"{tool.name}-{model}.log")
        if cost.returncode or not result.exists():
            return Row(tool.label, model, damaged, cost, None, last_line(cost.output))
        return Row(tool.label, model, damaged, cost, parse(result), None)
    except (ValueError, subprocess.TimeoutExpired) as error:
        return Row(tool.label, model, damaged, None, None, str(error))


def main() -> None:
    """Train, make environments, run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/out/versus"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="*", choices=[tool.name for tool in TOOLS], default=[t.name for t in TOOLS])
    arguments = parser.parse_args()
    out, console = arguments.out.resolve(), Console(width=160)
    corpus, checkpoints = models(out / "models", arguments.steps)
    rows: list[Row] = []
    for tool in (t for t in TOOLS if t.name in arguments.only):
        console.print(tool.label)
        where = (
            here() if tool.requirements is None else environment(REQUIREMENTS / tool.requirements, out / "environments")
        )
        for model, (checkpoint, damaged) in checkpoints.items():
            tokens(checkpoint, corpus, out / "found" / f"tokens-{model}.npz")
            rows.append(compare(tool, where, model, checkpoint, damaged, out))
            save(out / "versus.json", [{**asdict(row), "named": row.named, "others": row.others} for row in rows])
    print(markdown(rows))


if __name__ == "__main__":
    main()
