"""Training runs at a learning rate too low, right and too high, peeled along the way: the experiments of 2605.02853."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.local import save
from bench.papers.peeling import Lab, Losses, Peeling, Reference, Sizes, settings
from bench.papers.picture import Bands, Curve, Panel, Role, draw
from bench.papers.text import Text
from bench.stdlib_models import Family, ModelSize, Recipe, train
from peelbound.service.plan import Anchors, all_maps

QUERY_KEY_VALUE = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "c_attn.weight")
"""Linear maps that stay in full precision in binary and ternary networks, by how their names end: the paper names MLP,
attention outputs and gates as quantised and leaves open what becomes of these."""

RATES = {"too low": 1e-4, "right": 3e-3, "too high": 3e-2}

_SIZE = ModelSize(hidden=64, intermediate=176, blocks=4, heads=4)
_SIZES = Sizes()


@dataclass(frozen=True)
class Experiment:
    """A network, its weight class, and when its runs are peeled.

    Training is AdamW from the library's own initialisation, with warm-up and a cosine to zero, gradients clipped at 1:
    the recipe that most would take, not the fastest we know.
    """

    name: str
    family: Family
    scheme: str | None = None
    """Weight class of the MLP, its gate included, and of attention's output; None: full precision."""
    size: ModelSize = _SIZE
    steps: int = 300
    peeled_at: tuple[int, ...] = (100, 300)
    peeled_at_other_rates: tuple[int, ...] = (300,)
    """Of the runs at learning rates too low and too high."""
    sizes: Sizes = _SIZES
    network_steps: int = 400
    """Of the solver, for each peel problem; all its other settings are the product's."""

    @property
    def maps(self) -> tuple[Anchors, ...]:
        """All 2^(K−1) target maps."""
        return all_maps(self.size.blocks)

    def recipe(self, rate: str) -> Recipe:
        """How the run at this rate (a key of `RATES`) is trained."""
        return Recipe(
            size=self.size,
            family=self.family,
            near_identity=False,
            muon=False,
            scheme=self.scheme,
            full_maps=QUERY_KEY_VALUE,
            save_latent=False,
            steps=self.steps,
            batch=8,
            save_at=self.peeled_at if rate == "right" else self.peeled_at_other_rates,
            learning_rate=RATES[rate],
        )


@dataclass(frozen=True)
class Peeled:
    """One checkpoint of a run with its reference networks."""

    step: int
    peeling: Peeling


@dataclass(frozen=True)
class Run:
    """One training run."""

    rate: str
    learning_rate: float
    training_loss: list[float]
    """By step, each the mean of the last 20 batches."""
    peeled: list[Peeled]


def run(experiment: Experiment, rate: str, text: Text, directory: Path) -> Run:
    """Train at one learning rate and peel the checkpoints it leaves; a run that diverges ends there."""
    recipe = experiment.recipe(rate)
    losses: list[float] = []
    peeled: list[Peeled] = []
    for step in train(text.corpus, recipe, directory):
        if not math.isfinite(step.training_loss):
            break
        losses.append(step.training_loss)
        if step.checkpoint is not None:
            peeled.append(Peeled(step.step, peel(experiment, step.checkpoint, text)))
            print(_line(experiment, rate, step.training_loss, peeled[-1]), flush=True)
    return Run(rate, recipe.learning_rate, losses, peeled)


def peel(experiment: Experiment, checkpoint: Path, text: Text, maps: Sequence[Anchors] | None = None) -> Peeling:
    """All reference networks of one checkpoint, solved with the product's settings."""
    state, head = settings(experiment.size.blocks, experiment.size.hidden, experiment.sizes)
    state = replace(state, steps=experiment.network_steps)
    return Lab(checkpoint, text, experiment.sizes).peel(maps or experiment.maps, state, head)


def _line(experiment: Experiment, rate: str, training_loss: float, at: Peeled) -> str:
    """Progress: the numbers that the conclusions rest on."""
    control, bound, chosen = at.peeling.control, at.peeling.in_sample(), at.peeling.selected()
    return (
        f"{experiment.name} (found: {at.peeling.weights}), rate {rate}, step {at.step}: "
        f"training loss {training_loss:.3f}; fit: trained {control.fit:.3f}, head control {control.fit_refitted:.3f}, "
        f"bound {bound.losses.fit_refitted:.3f} {bound.targets}; check: trained {control.check:.3f}, "
        f"head control {control.chosen:.3f}, bound {chosen.losses.chosen:.3f} {chosen.targets}"
    )


def main(experiment: Experiment, text: Text, rates: Sequence[str], work: Path, out: Path) -> list[Run]:
    """Train and peel at these rates; save their figures, then tables and picture of all rates that were ever run."""
    for rate in rates:
        found = run(experiment, rate, text, work / experiment.name / _file_name(rate))
        save(out / experiment.name / f"{_file_name(rate)}.json", asdict(found))
    runs = load(out / experiment.name)
    (out / f"{experiment.name}.md").write_text(tables(runs), encoding="utf-8")
    (out / f"{experiment.name}.svg").write_text(picture(experiment.name, runs), encoding="utf-8")
    return runs


def _file_name(rate: str) -> str:
    return rate.replace(" ", "-")


def load(directory: Path) -> list[Run]:
    """The runs that `main` saved in a directory, from the lowest rate to the highest."""
    files = [directory / f"{_file_name(rate)}.json" for rate in RATES]
    return [_run(json.loads(file.read_text(encoding="utf-8"))) for file in files if file.exists()]


def _run(value: dict[str, Any]) -> Run:
    peeled = [Peeled(p["step"], _peeling(p["peeling"])) for p in value["peeled"]]
    return Run(value["rate"], value["learning_rate"], value["training_loss"], peeled)


def _peeling(value: dict[str, Any]) -> Peeling:
    references = tuple(
        Reference(tuple(r["anchors"]), Losses.load(r["losses"]), tuple(r["residuals"])) for r in value["references"]
    )
    return Peeling(Losses.load(value["control"]), references, value["weights"])


def tables(runs: Sequence[Run]) -> str:
    """Each run's last checkpoint with every target map, as Markdown."""
    return (
        "\n\n".join(f"### Learning rate {r.rate} ({r.learning_rate:g})\n\n{_table(r)}" for r in runs if r.peeled) + "\n"
    )


def _table(r: Run) -> str:
    last = r.peeled[-1].peeling
    lines = [
        "| map | fit | fit, head refitted | check | check, head refitted | gain on check (95%) "
        "| beyond the head control (95%) |",
        "|---|---|---|---|---|---|---|",
        _row("trained network; refitted: head control", last.control),
        *(_row(f"{ref.targets} {ref.name}", ref.losses) for ref in last.references),
    ]
    return "\n".join(lines)


def _row(name: str, losses: Losses) -> str:
    return (
        f"| {name} | {losses.fit:.3f} | {losses.fit_refitted:.3f} | {losses.check:.3f} "
        f"| {losses.check_refitted:.3f} | {losses.gain} | {losses.beyond_control} |"
    )


def summary(experiments: dict[str, Sequence[Run]]) -> str:
    """One line for each checkpoint: do the bounds beat training, in-sample and on check, and what does the head do."""
    lines = [
        "| experiment | rate | step | fit: trained | head control | bound, map | check: trained | head control "
        "| bound, map | gain of the bound (95%) | beyond the head control (95%) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_summary_row(name, r, at) for name, runs in experiments.items() for r in runs for at in r.peeled]
    return "\n".join(lines) + "\n"


def _summary_row(name: str, r: Run, at: Peeled) -> str:
    control, bound, chosen = at.peeling.control, at.peeling.in_sample(), at.peeling.selected()
    return (
        f"| {name} | {r.rate} | {at.step} | {control.fit:.3f} | {control.fit_refitted:.3f} "
        f"| {bound.losses.fit_refitted:.3f} {bound.targets} | {control.check:.3f} | {control.chosen:.3f} "
        f"| {chosen.losses.chosen:.3f} {chosen.targets} "
        f"| {chosen.losses.gain} | {chosen.losses.beyond_control} |"
    )


def picture(name: str, runs: Sequence[Run]) -> str:
    """The YES cloud of an experiment: in-sample as in the papers (above), on check (below), a column per rate."""
    rows = [[_panel(r, split) for r in runs if r.peeled] for split in ("fit", "check")]
    return draw(f"YES cloud of {name}", rows, x_title="step", y_title="cross-entropy, nats per token")


def _panel(r: Run, split: str) -> Panel:
    where = "training text" if split == "fit" else "unseen text"
    curves = [Curve("training loss", Role.TRAINED, list(enumerate(r.training_loss, start=1)))]
    curves += [
        Curve("checkpoint", Role.CHECKPOINT, list(_points(r, split, "trained")), dots=True),
        Curve("head control", Role.CONTROL, list(_points(r, split, "control")), dots=True),
    ]
    bands = Bands(list(_points(r, split, "zero")), list(_points(r, split, "smallest")))
    return Panel(f"rate {r.rate} ({r.learning_rate:g}), {where}", curves, bands)


def _points(r: Run, split: str, what: str) -> Iterator[tuple[float, float]]:
    for at in r.peeled:
        control = at.peeling.control
        smallest = at.peeling.in_sample() if split == "fit" else at.peeling.selected()
        losses = {"trained": control, "control": control, "zero": at.peeling.zero().losses, "smallest": smallest.losses}
        found = losses[what]
        if split == "fit":
            yield at.step, found.fit if what == "trained" else found.fit_refitted
        else:
            yield at.step, found.check if what == "trained" else found.chosen
