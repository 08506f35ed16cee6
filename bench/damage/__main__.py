"""Damage with known truth: who finds it?

    python -m bench.damage [--steps 250] [--positions 1] [--out bench/out/damage] [--only NAME …]
    python -m bench.damage --checkpoint DIR [--calibration unseen.jsonl]

Trains small models of several families, sound ones and some with a block that was left out of training; makes copies
that are damaged in known ways; measures every detector once on text that training did not see and once on another
distribution; and prints how well each tells the damaged blocks. With a checkpoint, the damages are done to that model
instead. What was measured already, at the same settings by the same code, is not measured again; the table is of these
alone.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from bench.damage.cases import SINGLE, SWAPPED
from bench.damage.measure import Row
from bench.damage.prose import prose
from bench.damage.rows import OTHER, UNSEEN, Source, kept, measured
from bench.damage.solves import Solves
from bench.damage.subject import PRODUCTS, Sequences
from bench.damage.subjects import REPORT, checkpoint, train_model, trained
from bench.damage.tables import show
from bench.stdlib_corpus import Corpus
from bench.stdlib_models import is_saved


def main(argv: Sequence[str] | None = None) -> None:
    """Train, damage, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250, help="of training")
    parser.add_argument("--positions", type=int, default=1, help="blocks that each kind of damage is done to")
    parser.add_argument("--out", type=Path, default=Path("bench/out/damage"))
    parser.add_argument("--only", nargs="*", help="measure these models only; the table is of all that is measured")
    parser.add_argument("--checkpoint", type=Path, help="a pretrained model (safetensors or GGUF) to damage instead")
    parser.add_argument("--calibration", type=Path, help="text for --checkpoint; by default prose of this machine")
    parser.add_argument("--kinds", nargs="*", choices=(*SINGLE, SWAPPED), help="of damage; all by default")
    parser.add_argument(
        "--sequences", type=int, nargs=3, default=PRODUCTS, metavar=("FIT", "SELECT", "CHECK"), help="of 128 tokens"
    )
    parser.add_argument(
        "--solves",
        choices=list(Solves),
        type=Solves,
        default=Solves.ALL,
        help="measure gains, or residuals as well, of which no verdict asks and which take 160 of a block's 184 steps",
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    console = Console(width=140)
    rows: list[Row] = []
    for source, asked in _sources(arguments):
        if asked:
            rows += measured(source, arguments.out / "rows", arguments.positions, console.print, arguments.kinds)
        else:
            rows += kept(source, arguments.out / "rows")
    show(rows, console)


def _sources(arguments: argparse.Namespace) -> Iterator[tuple[Source, bool]]:
    """The models that are there, and whether they are to be measured; those that are get trained first."""
    other, out = prose(arguments.out / "prose.jsonl"), arguments.out
    sequences, solves = Sequences(*arguments.sequences), arguments.solves
    if arguments.checkpoint is not None:
        path = arguments.checkpoint.resolve()
        texts = {OTHER: arguments.calibration or other}
        yield Source(f"checkpoint-{path.name}", REPORT, path, texts, 0, sequences, None, solves), True
        return
    texts = {UNSEEN: Corpus.in_directory(out / "corpus").held_out_path, OTHER: other}
    for model in trained(arguments.steps):
        asked, path, recipe = (
            arguments.only is None or model.name in arguments.only,
            checkpoint(model, out),
            model.recipe,
        )
        if asked:
            train_model(model, out)
        if is_saved(path):
            frozen = recipe.frozen_block
            yield Source(model.name, model.role, path, texts, recipe.seed, sequences, frozen, solves), asked


if __name__ == "__main__":
    main()
