"""How soon the fast solver reaches the bound of the baseline recipe, in solver FLOPs.

    python -m bench.solver CHECKPOINT CALIBRATION [--maps direct YES-0] [--rates 2e-3 5e-3 1e-2] [--steps 160 320 640]

The baseline is AdamW with a cosine from a fresh start, whole blocks, its learning rate tuned on select; it is also
shown with fewer steps, since the number it is charged for is a choice. The fast solver is the product's default at
several numbers of steps, and the same without its halves. All build the reference networks of the maps, block by block;
compared is the cross-entropy on check with the head unchanged, of the map that is better on select.

FLOPs are those of products of matrices, counted while they run (`torch.utils.flop_counter`): steps, least squares, the
passes between them, and what it takes to get the trained states inside the blocks.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.local import save
from peelbound.service.controller.inputs import open_inputs
from peelbound.service.plan import make_plan, target_map
from peelbound.service.schemas.request import AuditRequest, Calibration, Provenance
from peelbound.service.settings import Settings
from peelbound.workers import passes, solver
from peelbound.workers.calibration import loss_mask
from peelbound.workers.keys import seed_of
from peelbound.workers.passes import Floats
from peelbound.workers.recipes import StateSettings
from peelbound.workers.skeleton import Skeleton

BASELINE = StateSettings(steps=400, learning_rate=5e-3, batch=8, schedule="cosine", halves=False)
MAPS = ("direct", "YES-0")
GRAIN = 8


@dataclass(frozen=True)
class Outcome:
    """A solver's networks."""

    name: str
    settings: StateSettings
    flops: dict[str, float]
    """By map."""
    select: dict[str, float]
    check: dict[str, float]

    @property
    def picked(self) -> str:
        """The map that is better on select."""
        return min(self.select, key=self.select.__getitem__)

    @property
    def total(self) -> float:
        """FLOPs of all maps."""
        return sum(self.flops.values())


class Lab:
    """A checkpoint's trained states and the means to build reference networks on them."""

    def __init__(self, checkpoint: Path, calibration: Path) -> None:
        self.request = AuditRequest(
            checkpoint=str(checkpoint.resolve()),
            calibration=Calibration(uri=str(calibration.resolve()), provenance=Provenance.UNSEEN),
        )
        inputs = open_inputs(self.request, Settings(allow=[str(checkpoint.resolve()), str(calibration.resolve())]))
        self.checkpoint, self.splits = inputs.checkpoint, inputs.calibration.splits
        self.blocks = self.checkpoint.architecture.block_count
        self.skeleton = Skeleton(self.checkpoint.architecture, self.checkpoint.read_part(0).tensors())
        self.states = {name: [passes.embed(self.skeleton, s.ids, GRAIN)] for name, s in self.splits.items()}
        self.middles: dict[int, Floats | None] = {}
        middle_flops = 0
        for index in range(1, self.blocks + 1):
            block = self.skeleton.load_block(index, self.checkpoint.read_part(index).tensors())
            with FlopCounterMode(display=False) as counter:
                self.middles[index] = passes.middle(self.skeleton, index, block, self.states["fit"][-1], GRAIN)
            middle_flops += counter.get_total_flops()
            for rows in self.states.values():
                rows.append(passes.forward(self.skeleton, index, block, rows[-1], GRAIN))
        self.middle_flops = middle_flops / self.blocks

    def loss(self, split: str, states: Floats) -> float:
        """CE per token with the head unchanged."""
        mask = loss_mask(self.splits[split])
        rows = passes.losses(self.skeleton, states, self.splits[split].ids, mask, GRAIN)
        return float(rows.sum(dtype=np.float64) / mask.sum())

    def solve(self, index: int, target: int, inputs: Floats, settings: StateSettings) -> torch.nn.Module:
        """A peeled block."""
        seed = seed_of(0, "block", index)
        block = self.skeleton.fresh_block(index, seed)
        middle = self.middles[index] if target == index else None
        solver.solve_state(
            self.skeleton,
            index,
            block,
            inputs,
            self.states["fit"][target],
            settings,
            seed,
            lambda _: None,
            middle=middle,
        )
        return block

    def network(self, anchors: tuple[int, ...], settings: StateSettings) -> dict[str, Floats]:
        """h[K] of a reference network, by split."""
        states = {name: rows[0] for name, rows in self.states.items()}
        for index, target in enumerate(target_map(anchors), start=1):
            block = self.solve(index, target, states["fit"], settings)
            states = {n: passes.forward(self.skeleton, index, block, h, GRAIN) for n, h in states.items()}
        return states

    def flops(self, anchors: tuple[int, ...], settings: StateSettings) -> float:
        """Of the solves of a map: all steps of a solve cost the same, so two short ones tell."""
        total = 0.0
        for index, target in enumerate(target_map(anchors), start=1):
            counted = []
            for steps in (1, 2):
                # The counter has no formula for the CPU's fused attention; taken apart, its products count.
                with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                    self.solve(index, target, self.states["fit"][index - 1], replace(settings, steps=steps))
                counted.append(counter.get_total_flops())
            total += counted[0] + (settings.steps - 1) * (counted[1] - counted[0])
            total += self.middle_flops * (settings.halves and target == index)
        return total

    def outcome(self, name: str, settings: StateSettings, names: Sequence[str] = MAPS) -> Outcome:
        """Build the networks of these maps and measure them."""
        anchors = {"direct": tuple(range(1, self.blocks + 1)), "YES-0": (self.blocks,)}
        maps = {each: anchors[each] for each in names}
        built = {name: self.network(anchors, settings) for name, anchors in maps.items()}
        return Outcome(
            name,
            settings,
            {n: self.flops(anchors, settings) for n, anchors in maps.items()},
            {n: self.loss("select", states["select"]) for n, states in built.items()},
            {n: self.loss("check", states["check"]) for n, states in built.items()},
        )


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--maps", nargs="+", choices=MAPS, default=MAPS)
    parser.add_argument("--rates", nargs="+", type=float, default=(2e-3, 5e-3, 1e-2), help="of the baseline")
    parser.add_argument("--steps", nargs="+", type=int, default=(80, 160, 320, 640), help="of the fast solver")
    parser.add_argument("--out", type=Path, default=Path("bench/out/solver.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lab, console = Lab(arguments.checkpoint, arguments.calibration), Console(width=120)
    trained = lab.loss("check", lab.states["check"][-1])
    console.print(f"trained network on check: {trained:.4f}")
    default = make_plan(lab.request, lab.blocks, lab.checkpoint.architecture.hidden_size).state

    def measured(name: str, settings: StateSettings) -> Outcome:
        return lab.outcome(name, settings, arguments.maps)

    tried = [measured("baseline", replace(BASELINE, learning_rate=rate)) for rate in arguments.rates]
    baseline = min(tried, key=lambda o: o.select[o.picked])
    fast = [measured("fast", replace(default, steps=steps)) for steps in arguments.steps]
    fewer = [measured("baseline", replace(baseline.settings, steps=BASELINE.steps // n)) for n in (2, 5)]
    whole = measured("fast, whole blocks", replace(default, halves=False))

    columns = ("solver", "steps", "batch", "rate", "TFLOPs", "of baseline", "bound on check", *arguments.maps)
    table = Table(*columns)
    rows: list[dict[str, Any]] = []
    for outcome in (baseline, *fewer, *fast, whole):
        share, bound = outcome.total / baseline.total, outcome.check[outcome.picked]
        rows.append(asdict(outcome) | {"share": share, "bound": bound})
        table.add_row(
            outcome.name, str(outcome.settings.steps), str(outcome.settings.batch),
            f"{outcome.settings.learning_rate:g}", f"{outcome.total / 1e12:.2f}",
            f"1/{1 / share:.1f}", f"{bound:.4f}", *(f"{each:.4f}" for each in outcome.check.values()),
        )  # fmt: skip
    console.print(table)
    reached = [o for o in fast if o.select[o.picked] <= baseline.select[baseline.picked]]
    if reached:
        best = min(reached, key=lambda o: o.total)
        console.print(
            f"The fewest FLOPs that reach the baseline's bound on select, 1/{baseline.total / best.total:.1f} of its "
            f"own, give {best.check[best.picked]:.4f} on check; the baseline {baseline.check[baseline.picked]:.4f}."
        )
    else:
        console.print("The fast solver does not reach the baseline's bound on select within its largest budget here.")
    save(arguments.out, {"trained": trained, "rows": rows})


if __name__ == "__main__":
    main()
