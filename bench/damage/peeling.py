"""Does the peeling matrix tell which blocks are redundant?

    python -m bench.damage.peeling [--out bench/out/damage] [--only NAME …]

Two questions about the matrix's cells of width 2, a fresh block in the place of two trained ones, on models that
`bench.damage` trained. *Prediction*: does a cell's cost rank the pairs as their cost does after healing, when the
network with one block less was trained on; and what do those cost then, on check, that are called redundant by the
product's own rule? *Planting*: a block is inserted that the network does not need, a copy of its neighbour or a fresh
one near the identity; which pairs are called redundant, and is the cheapest one that holds it?
What was measured already, of the same model and texts by the same code, is not measured again.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from bench.damage import cases, detectors
from bench.damage.cases import ADDING
from bench.damage.detectors import Sums, onward
from bench.damage.digests import code, digest, name_of
from bench.damage.rows import UNSEEN
from bench.damage.solves import INTERVAL_SEED
from bench.damage.subject import GRAIN, Subject
from bench.damage.subjects import Trained, checkpoint, train_model, trained
from bench.local import save
from bench.stdlib_corpus import Corpus
from peelbound.service import statistics
from peelbound.service.redundancy import is_redundant
from peelbound.service.schemas.report import Interval
from peelbound.service.schemas.request import AuditOptions
from peelbound.service.statistics import PairedSums, paired_intervals
from peelbound.workers import passes, solver
from peelbound.workers.passes import Floats

WIDTH = 2
COPY, NEAR_IDENTITY = KINDS = "copy", "near identity"
"""Of planted blocks."""
Cell = dict[str, Any]
"""What a fresh block costs in the place of two on select: an interval that covers jointly, and the `documents`."""
REPLICATES = 10_000
TOLERANCE = AuditOptions().tolerance
HEALING_STEPS, HEALING_RATE, BATCH, LENGTH = 60, 3e-4, 16, 128


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both, for every sound model that is trained already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/out/damage"))
    parser.add_argument("--steps", type=int, default=250, help="of training, as `bench.damage` had it")
    parser.add_argument("--only", nargs="*", help="these models only")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    disable_progress_bar()
    console, corpus = Console(width=120), Corpus.in_directory(arguments.out / "corpus")
    found = []
    for model in trained(arguments.steps):
        wanted = model.recipe.frozen_block is None and (arguments.only is None or model.name in arguments.only)
        if wanted:
            found.append(_measured(model, arguments.out, corpus))
            console.print(f"{model.name} is measured")
    console.print(cell_table(found), planted_table(found), summary(found))


def _measured(model: Trained, out: Path, corpus: Corpus) -> dict[str, Any]:
    train_model(model, out)
    where = checkpoint(model, out)
    path = _kept_at(model.name, where, out, corpus)
    if not path.exists():
        found = {"model": model.name, **predicted(where, corpus), "planted": planted(where, corpus, out / "planted")}
        save(path, found)
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def _kept_at(name: str, where: Path, out: Path, corpus: Corpus) -> Path:
    """The file of a model's figures, named by it and by all that they depend on."""
    depends = [
        digest(where),
        digest(corpus.directory),
        code(cases, detectors, statistics, sys.modules[__name__]),
    ]
    return out / "peeling" / f"{name}-{name_of(depends)}.json"


class Matrix:
    """Cells of width 2 of one checkpoint, solved as an audit of it solves them."""

    def __init__(self, where: Path, corpus: Corpus) -> None:
        self.subject = Subject(where, {UNSEEN: corpus.held_out_path})
        self.text = self.subject.texts[UNSEEN]
        self._loaded = [self.subject.sound.load(self.subject.skeleton, i) for i in range(1, self.subject.blocks + 1)]
        self._states = self._walked(self.text.ids)
        self._on_select = self._walked(self.text.select.ids)

    def _walked(self, ids: NDArray[np.int64]) -> list[Floats]:
        skeleton = self.subject.skeleton
        states = [passes.embed(skeleton, ids, GRAIN)]
        for index, block in enumerate(self._loaded, start=1):
            states.append(passes.forward(skeleton, index, block, states[-1], GRAIN))
        return states

    def cells(self) -> tuple[list[nn.Module], list[Cell]]:
        """A fresh block for each neighbouring two, and what it costs in their place on select, as in an audit."""
        select, skeleton, on_select = self.text.select, self.subject.skeleton, self._on_select
        base = self._losses(self.subject.blocks, on_select[-1])
        blocks, columns = [], []
        for source in range(self.subject.blocks - WIDTH + 1):
            blocks.append(self.solved(source))
            h = passes.forward(skeleton, source + 1, blocks[-1], on_select[source], GRAIN)
            columns.append(self._losses(source + WIDTH, h) - base)
        sums = PairedSums(np.stack(columns, axis=1), select.tokens())
        found = paired_intervals(sums, replicates=REPLICATES, seed=INTERVAL_SEED).intervals
        return blocks, [{**cost.model_dump(), "documents": sums.documents} for cost in found]

    def solved(self, source: int) -> nn.Module:
        """A fresh block from h[source] to h[source + 2]."""
        fit, target = self.text.fit, source + WIDTH
        block = self.subject.skeleton.fresh_block(source + 1, seed=source)
        solver.solve_state(
            self.subject.skeleton, source + 1, block, self._states[source][:fit], self._states[target][:fit],
            self.subject.plan.state, seed=source, on_step=lambda _: None,
        )  # fmt: skip
        return block

    def _losses(self, after: int, states: Floats) -> Sums:
        """Loss sums per document of select with these states as the output of block `after`."""
        last = onward(self.subject, self._loaded, after, states)
        rows = passes.losses(self.subject.skeleton, last, self.text.select.ids, self.text.select.mask, GRAIN)
        return self.text.select.sums(rows)


def predicted(where: Path, corpus: Corpus) -> dict[str, Any]:
    """Cost of each cell, and of the same replacement after healing, against the whole network trained on as long."""
    matrix = Matrix(where, corpus)
    blocks, cells = matrix.cells()
    whole = _healed(_whole(where), corpus, matrix)
    healed = []
    for source, block in enumerate(blocks):
        model = _whole(where)
        kept = blocks_of(model)
        kept[source].load_state_dict(block.state_dict())
        for _ in range(WIDTH - 1):
            del kept[source + 1]
        healed.append(_healed(model, corpus, matrix) - whole)
    return {"cells": cells, "healed": healed}


def planted(where: Path, corpus: Corpus, out: Path) -> list[dict[str, Any]]:
    """Costs of the cells of networks with a block that they do not need, put in after the second and the fourth."""
    found = []
    for kind in KINDS:
        for after in (2, 4):
            target = out / where.parent.name / f"{kind.replace(' ', '-')}-{after}"
            plant(where, target, kind, after)
            found.append({"kind": kind, "after": after, "cells": Matrix(target, corpus).cells()[1]})
            shutil.rmtree(target)
    return found


def cell_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """One line a pair of blocks: what one fresh block costs in its place, as it is and after healing."""
    table = Table("model", "blocks", "cost in nats", "interval", "after healing", "redundant")
    for model in models:
        for source, (cell, healed) in enumerate(zip(model["cells"], model["healed"], strict=True)):
            table.add_row(
                model["model"], _pair(source), *_costs(cell), f"{healed:.4f}", "yes" if _redundant(cell) else ""
            )
    return table


def planted_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """One line a network with a block that it does not need: who is cheapest, and who is called redundant."""
    table = Table("model", "planted", "block", "cheapest pair", "cost in nats", "interval", "redundant pairs")
    for model in models:
        for plot in model["planted"]:
            cells = plot["cells"]
            cheapest = min(range(len(cells)), key=lambda source: cells[source]["estimate"])
            redundant = ", ".join(_pair(source) for source, cell in enumerate(cells) if _redundant(cell))
            block = str(plot["after"] + 1)
            costs = _costs(cells[cheapest])
            table.add_row(model["model"], plot["kind"], block, _pair(cheapest), *costs, redundant)
    return table


def summary(models: Sequence[Mapping[str, Any]]) -> str:
    """Rank correlations, and how the pairs that are called redundant and the others end after healing."""
    lines = []
    pairs = [p for m in models for p in zip(m["cells"], m["healed"], strict=True)]
    for name, chosen in (*((m["model"], [m]) for m in models), ("all pairs", models)):
        costs = [cell["estimate"] for m in chosen for cell in m["cells"]]
        lines.append(f"{name}: rank correlation {spearman(costs, [h for m in chosen for h in m['healed']]):.2f}")
    for redundant, words in ((True, "redundant"), (False, "others")):
        healed = [h for cell, h in pairs if _redundant(cell) is redundant]
        if healed:
            span = f"{min(healed):.4f} to {max(healed):.4f}"
            lines.append(f"{words}: {len(healed)} pairs, after healing {span} nats")
    return "\n".join(lines)


def _pair(source: int) -> str:
    return f"{source + 1}–{source + WIDTH}"


def _costs(cell: Cell) -> tuple[str, str]:
    return f"{cell['estimate']:.4f}", f"{cell['low']:.4f} to {cell['high']:.4f}"


def _redundant(cell: Cell) -> bool:
    """By the product's own rule: not kept with the figures, so that another rule needs no other measurement."""
    return is_redundant(Interval.model_validate(cell, extra="ignore"), TOLERANCE)


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; no ties are expected among measured losses."""
    first, second = (np.argsort(np.argsort(v)).astype(np.float64) for v in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


def _whole(where: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    return model


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The list of a whole model's blocks."""
    (found,) = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    return found


def plant(where: Path, target: Path, kind: str, after: int) -> None:
    """Write the model with one block more, after the first `after`: a `copy` of the one before, or a fresh one."""
    model = _whole(where)
    config = model.config
    count = "n_layer" if hasattr(config, "n_layer") else "num_hidden_layers"
    setattr(config, count, getattr(config, count) + 1)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0]] * getattr(config, count)
    larger = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = [block.state_dict() for block in blocks_of(model)]
    share = 1 / (2 * len(tensors))
    own = {n: t.clone() for n, t in blocks_of(larger)[after].state_dict().items()}
    fresh = {n: t * share if n.endswith(ADDING) else t for n, t in own.items()}
    larger.load_state_dict({n: t for n, t in model.state_dict().items() if n in larger.state_dict()}, strict=False)
    tensors.insert(after, tensors[after - 1] if kind == COPY else fresh)
    for block, state in zip(blocks_of(larger), tensors, strict=True):
        block.load_state_dict(state)
    larger.save_pretrained(target)
    shutil.copy(where / "tokenizer.json", target / "tokenizer.json")


def _healed(model: PreTrainedModel, corpus: Corpus, matrix: Matrix) -> float:
    """Loss on check after a short training on the training text."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=HEALING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    chance, window = torch.Generator().manual_seed(0), torch.arange(LENGTH)
    model.train()
    for step in range(HEALING_STEPS):
        starts = torch.randint(len(corpus.train) - LENGTH, (BATCH, 1), generator=chance)
        batch = corpus.train[starts + window]  # [BATCH, LENGTH]
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = HEALING_RATE * (1 - step / HEALING_STEPS)
        optimiser.step()
    model.eval()
    ids, mask = (torch.from_numpy(a[matrix.text.fit :]) for a in (matrix.text.ids, matrix.text.mask))
    total = 0.0
    with torch.no_grad():
        for part in passes.grains(len(ids), GRAIN):
            logits = model(input_ids=ids[part]).logits[:, :-1]
            rows = nn.functional.cross_entropy(logits.flatten(0, 1), ids[part, 1:].flatten(), reduction="none")
            total += float((rows * mask[part].flatten()).sum())
    return total / float(mask.sum())


if __name__ == "__main__":
    main()
