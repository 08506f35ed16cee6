"""YES bounds of plain ReLU networks: the synthetic experiments of arXiv 2410.10984, and what their controls say.

The set-up is that of the authors' published programs (github.com/WaveOpt-Lab/YES-bound, `yes_bound_paper.py` and
`yes_bound_denoising_task.py`): five layers of one width with biases, ReLU after all but the last, mean over samples of
the squared error. Each layer of a reference network is the least-squares solution that carries its input to its target,
a trained state or the labels, followed by the ReLU. The bound is the smallest error over all 2^(K−1) target maps, and
over all epochs so far, as theirs is.

What we add is measured beside it: the same networks on samples that neither training nor bound saw, and the *head
control*, the trained network with its last layer alone solved anew by least squares.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.local import save
from bench.papers.picture import Bands, Curve, Panel, Role, draw
from peelbound.service.plan import all_maps, target_map

Sample = tuple[Tensor, Tensor]
"""Inputs [N, D] and labels [N, M]."""

LAYERS = 5
SAMPLES, TEST_SAMPLES = 800, 200


class Optimiser(StrEnum):
    """As in the authors' programs: Adam for phase retrieval, plain gradient descent for denoising."""

    ADAM = "adam"
    SGD = "sgd"


@dataclass(frozen=True)
class Task:
    """One experiment of the paper: data, and how its network is trained."""

    name: str
    width: int
    batch: int
    epochs: int
    optimiser: Optimiser
    rates: Mapping[str, float]
    """Learning rate by what is to be shown. `right` is the authors' own for phase retrieval; their denoising program
    runs at 1e-4 and calls 1e-3 the best."""
    decay: float = 0.9
    """Of the learning rate, every 50 epochs."""


PHASE = Task("plain-phase", 100, 50, 800, Optimiser.ADAM, {"too low": 1e-5, "right": 1e-3, "too high": 3e-2})
DENOISING = Task("plain-denoising", 20, 20, 1800, Optimiser.SGD, {"too low": 1e-6, "right": 1e-3, "too high": 8e-3})


@dataclass(frozen=True)
class Data:
    """Samples that training and bounds see, and samples that neither does."""

    train: Sample
    test: Sample


@dataclass(frozen=True)
class Look:
    """One epoch, all errors in decibels (10·log10 of the mean over samples of the squared error's sum)."""

    epoch: int
    trained: float
    trained_test: float
    bounds: dict[str, float]
    """By degree: smallest error over the maps of at most that many anchors and over the looks so far."""
    bound_test: float
    """On test: the reference network whose error on train is the smallest so far."""
    control: float
    """The trained network with its last layer solved anew."""
    control_test: float


def phase_retrieval(seed: int) -> Data:
    """x ~ N(0, I) in 20 dimensions, labels |A x| in 100 with A ~ N(0, 1/100)."""
    chance = torch.Generator().manual_seed(seed)
    A = torch.randn(100, 20, generator=chance) / math.sqrt(100)
    x = torch.randn(SAMPLES + TEST_SAMPLES, 20, generator=chance)
    return _split(x, (x @ A.T).abs())


def signal_denoising(seed: int) -> Data:
    """50 signals in 20 dimensions, each in 20 copies with noise of σ = 0.2; the label is the signal.

    The authors split at random over all copies, so that test holds the training signals with other noise; so do we.
    """
    chance = torch.Generator().manual_seed(seed)
    signals = torch.randn(50, 20, generator=chance).repeat_interleave(20, dim=0)
    noisy = signals + 0.2 * torch.randn(signals.shape, generator=chance)
    order = torch.randperm(len(signals), generator=chance)
    return _split(noisy[order], signals[order])


DATA = {PHASE.name: phase_retrieval, DENOISING.name: signal_denoising}


def _split(x: Tensor, y: Tensor) -> Data:
    return Data((x[:SAMPLES], y[:SAMPLES]), (x[SAMPLES:], y[SAMPLES:]))


class PlainNetwork(nn.Module):
    """Linear layers with a ReLU after all but the last."""

    def __init__(self, inputs: int, width: int, outputs: int, layers: int = LAYERS) -> None:
        super().__init__()
        sizes = [inputs, *[width] * (layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def states(self, x: Tensor) -> list[Tensor]:
        """x, then the output of each layer."""
        states = [x]
        for index, layer in enumerate(self.layers, start=1):
            out = layer(states[-1])
            states.append(out if index == len(self.layers) else out.relu())
        return states


def solve_layer(x: Tensor, target: Tensor) -> Tensor:
    """The [D + 1, M] matrix, bias last, whose affine map carries x [N, D] to target [N, M] with least squares."""
    with_bias = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    # gelsd cuts small singular values as the authors' pinv does: states after a ReLU are often rank-deficient.
    solution: Tensor = torch.linalg.lstsq(with_bias.double(), target.double(), driver="gelsd").solution
    return solution.to(x.dtype)


def apply_layer(weights: Tensor, x: Tensor, *, last: bool) -> Tensor:
    """What `solve_layer` found, applied to x, with the ReLU unless it is the last layer."""
    out = x @ weights[:-1] + weights[-1]
    return out if last else out.relu()


@dataclass(frozen=True)
class Errors:
    """Mean squared error of a network on both parts."""

    train: float
    test: float


def reference_networks(states: list[Tensor], data: Data) -> dict[tuple[int, ...], Errors]:
    """Every target map's reference network, by its anchors; shared prefixes are solved once.

    Args:
        states: the trained network's on the training inputs; the labels take the place of the last.
        data: both parts.
    """
    layers = len(states) - 1
    targets = [*states[:-1], data.train[1]]
    at: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {(): (data.train[0], data.test[0])}
    for path in _prefixes(layers):
        x, held_out = at[path[:-1]]
        weights, last = solve_layer(x, targets[path[-1]]), len(path) == layers
        at[path] = apply_layer(weights, x, last=last), apply_layer(weights, held_out, last=last)
    found = {}
    for anchors in all_maps(layers):
        fitted, held_out = at[target_map(anchors)]
        found[anchors] = Errors(squared_error(fitted, data.train[1]), squared_error(held_out, data.test[1]))
    return found


def _prefixes(layers: int) -> list[tuple[int, ...]]:
    maps = [target_map(anchors) for anchors in all_maps(layers)]
    return sorted({m[:depth] for m in maps for depth in range(1, layers + 1)}, key=lambda path: (len(path), path))


def head_control(network: PlainNetwork, data: Data) -> Errors:
    """The trained network with its last layer solved by least squares on the training part."""
    x, held_out = network.states(data.train[0])[-2], network.states(data.test[0])[-2]
    weights = solve_layer(x, data.train[1])
    fitted, other = apply_layer(weights, x, last=True), apply_layer(weights, held_out, last=True)
    return Errors(squared_error(fitted, data.train[1]), squared_error(other, data.test[1]))


def squared_error(output: Tensor, labels: Tensor) -> float:
    """Mean over samples of the sum of squares."""
    return float((output - labels).double().square().sum(dim=1).mean())


def decibels(error: float) -> float:
    """10·log10, as the paper plots it; infinite for a network that diverged."""
    return 10 * math.log10(max(error, 1e-12)) if math.isfinite(error) else math.inf


def run(task: Task, rate: float, *, seed: int = 0, epochs: int | None = None, looks: int = 40) -> Iterator[Look]:
    """Train one network and look at it `looks` times along the run."""
    data, epochs = DATA[task.name](seed), epochs or task.epochs
    (x, y), chance = data.train, torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PlainNetwork(x.shape[1], task.width, y.shape[1])
    optimiser: torch.optim.Optimizer = (
        torch.optim.Adam(network.parameters(), lr=rate)
        if task.optimiser is Optimiser.ADAM
        else torch.optim.SGD(network.parameters(), lr=rate)
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_size=50, gamma=task.decay)
    best: dict[int, float] = {}
    best_test = math.inf
    for epoch in range(1, epochs + 1):
        for chosen in torch.randperm(len(x), generator=chance).split(task.batch):
            loss = (network.states(x[chosen])[-1] - y[chosen]).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        if epoch != 1 and epoch % max(1, epochs // looks) and epoch != epochs:
            continue
        with torch.no_grad():
            states = network.states(x)
            trained = squared_error(states[-1], y)
            if not math.isfinite(trained):
                return
            found = reference_networks(states, data)
            least = min(found.values(), key=lambda e: e.train)
            if least.train < min(best.values(), default=math.inf):
                best_test = least.test
            for anchors, errors in found.items():
                for degree in range(len(anchors) - 1, LAYERS):
                    best[degree] = min(best.get(degree, math.inf), errors.train)
            control = head_control(network, data)
            yield Look(
                epoch,
                decibels(trained),
                decibels(squared_error(network.states(data.test[0])[-1], data.test[1])),
                {f"YES-{degree}": decibels(error) for degree, error in sorted(best.items())},
                decibels(best_test),
                decibels(control.train),
                decibels(control.test),
            )


def panel(title: str, looks: list[Look]) -> Panel:
    """The paper's cloud: error over epochs on the bands of the bounds, with our control."""
    most = f"YES-{LAYERS - 1}"
    return Panel(
        title,
        [
            Curve("trained network", Role.TRAINED, [(look.epoch, look.trained) for look in looks]),
            Curve("head control", Role.CONTROL, [(look.epoch, look.control) for look in looks]),
        ],
        Bands(
            [(look.epoch, look.bounds["YES-0"]) for look in looks],
            [(look.epoch, look.bounds[most]) for look in looks],
        ),
    )


def main(task: Task, out: Path, *, epochs: int | None = None, looks: int = 40) -> list[dict[str, Any]]:
    """Run a task at its three learning rates, print, save figures and picture."""
    rows: list[dict[str, Any]] = []
    panels = []
    for name, rate in task.rates.items():
        found = list(run(task, rate, epochs=epochs, looks=looks))
        rows.append({"rate": rate, "name": name, "looks": [asdict(look) for look in found]})
        if not found:
            print(f"{task.name} {name}: diverged", flush=True)
            continue
        panels.append(panel(f"learning rate {name} ({rate:g})", found))
        print(f"{task.name} {name}: {found[-1]}", flush=True)
    save(out / f"{task.name}.json", rows)
    picture = draw(
        f"YES cloud of {task.name}", [panels], x_title="epoch", y_title="training error, dB", unit="dB", decimals=1
    )
    (out / f"{task.name}.svg").write_text(picture, encoding="utf-8")
    return rows
