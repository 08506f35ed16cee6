"""The papers' experiments, one command each.

    python -m bench.papers NAME [--text FILE] [--out bench/out/papers] [--work bench/out/papers/work]

NAME is an experiment, `all`, or `summary`, which prints one table of the runs that lie in OUT. Tables go to
OUT/NAME.md, the YES cloud to OUT/NAME.svg, figures to OUT/NAME/ (a file for each learning rate) or OUT/NAME.json.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import torch

from bench.papers import deep, plain, runs
from bench.papers.deep import DEEP
from bench.papers.runs import Experiment
from bench.papers.text import Text, prepare_text
from bench.stdlib_models import Family

SCHEMES = {"full": None, "binary": "binary", "ternary": "ternary"}
RUNS = {
    f"{family}-{name}": Experiment(f"{family}-{name}", family, scheme)
    for family in (Family.LLAMA, Family.GPT2)
    for name, scheme in SCHEMES.items()
}
PLAIN = {task.name: task for task in (plain.PHASE, plain.DENOISING)}


def main() -> None:
    """Run what is asked for."""
    names = [*RUNS, DEEP.name, *PLAIN]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*names, "all", "summary"])
    parser.add_argument("--text", type=Path, help=".jsonl or .txt; without: the Python standard library's source")
    parser.add_argument("--rate", choices=list(runs.RATES), action="append", help="of llama-* and gpt2-*; default: all")
    parser.add_argument("--out", type=Path, default=Path("bench/out/papers"))
    parser.add_argument("--work", type=Path, help="where corpora and checkpoints lie; default: OUT/work")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out, work = arguments.out, arguments.work or arguments.out / "work"
    out.mkdir(parents=True, exist_ok=True)
    if arguments.name == "summary":
        print(runs.summary({name: runs.load(out / name) for name in RUNS}))
        return
    corpus = work / (arguments.text.stem if arguments.text else "library")
    text = cache(partial(prepare_text, corpus, arguments.text))
    for name in names if arguments.name == "all" else [arguments.name]:
        run(name, text, arguments.rate or list(runs.RATES), work, out)


def run(name: str, text: Callable[[], Text], rates: Sequence[str], work: Path, out: Path) -> None:
    """Carry out one experiment; a text is prepared only for those that read one."""
    if name in PLAIN:
        plain.main(PLAIN[name], out)
    elif name == DEEP.name:
        deep.main(DEEP, text(), work, out)
    else:
        runs.main(RUNS[name], text(), rates, work, out)


if __name__ == "__main__":
    main()
