"""How soon the fast solver reaches the bound of the baseline recipe, in solver FLOPs.

    python -m bench.solver CHECKPOINT CALIBRATION [--baseline-steps 400] [--out bench/out/solver.json]

The baseline is AdamW from a fresh start, its learning rate tuned on select; it is also shown with fewer steps, since
the number it is charged for is a choice. The fast candidates are the product's default (Muon for matrices, AdamW for
the rest) at several numbers of steps, and AdamW with small batches. Both build the reference networks `direct` and
`YES-0` block by block; compared is the cross-entropy on check with the head unchanged, the better of the two maps.
FLOPs count the passes of the solve and the Newton-Schulz products of Muon.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.local import save
from peelbound.service.controller.cost import STEP, CostModel
from peelbound.service.controller.inputs import open_inputs
from peelbound.service.plan import target_map
from peelbound.service.schemas.request import AuditRequest, Calibration, Provenance
from peelbound.service.settings import Settings
from peelbound.workers import passes, solver
from peelbound.workers.calibration import loss_mask
from peelbound.workers.keys import seed_of
from peelbound.workers.passes import Floats
from peelbound.workers.recipes import StateSettings
from peelbound.workers.skeleton import Skeleton

BASELINE_RATES = (2e-3, 5e-3, 1e-2)
BATCH = 8
FAST = (
    *(StateSettings("muon", steps, 2e-2, BATCH) for steps in (40, 80, 160)),
    StateSettings("adamw", 160, 5e-3, 4),
    StateSettings("adamw", 320, 5e-3, 2),
)
GRAIN = 8


@dataclass(frozen=True)
class Outcome:
    """A solver's networks on the two maps."""

    settings: StateSettings
    flops: float
    select: float
    check: float
    by_map: dict[str, float]
    """On check."""


class Lab:
    """A checkpoint's trained states and the means to build reference networks on them."""

    def __init__(self, checkpoint: Path, calibration: Path) -> None:
        request = AuditRequest(
            checkpoint=str(checkpoint.resolve()),
            calibration=Calibration(uri=str(calibration.resolve()), provenance=Provenance.UNSEEN),
        )
        inputs = open_inputs(request, Settings(allow=[str(checkpoint.resolve()), str(calibration.resolve())]))
        self.checkpoint, self.splits = inputs.checkpoint, inputs.calibration.splits
        self.blocks = self.checkpoint.architecture.block_count
        self.skeleton = Skeleton(self.checkpoint.architecture, self.checkpoint.read_part(0).tensors())
        self.cost = CostModel.of(self.checkpoint)
        self.states = {name: [passes.embed(self.skeleton, s.ids, GRAIN)] for name, s in self.splits.items()}
        for index in range(1, self.blocks + 1):
            block = self.skeleton.load_block(index, self.checkpoint.read_part(index).tensors())
            for rows in self.states.values():
                rows.append(passes.forward(self.skeleton, index, block, rows[-1], GRAIN))

    def loss(self, split: str, states: Floats) -> float:
        """CE per token with the head unchanged."""
        mask = loss_mask(self.splits[split])
        rows = passes.losses(self.skeleton, states, self.splits[split].ids, mask, GRAIN)
        return float(rows.sum(dtype=np.float64) / mask.sum())

    def network(self, anchors: tuple[int, ...], settings: StateSettings) -> dict[str, Floats]:
        """h[K] of a reference network, by split."""
        states = {name: rows[0] for name, rows in self.states.items()}
        for index, target in enumerate(target_map(anchors), start=1):
            seed = seed_of(0, "block", index)
            block = self.skeleton.fresh_block(index, seed)
            solver.solve_state(
                self.skeleton, index, block, states["fit"], self.states["fit"][target], settings, seed, lambda _: None
            )
            states = {n: passes.forward(self.skeleton, index, block, h, GRAIN) for n, h in states.items()}
        return states

    def flops(self, settings: StateSettings) -> float:
        """Of the solves of both maps."""
        tokens = settings.batch * self.splits["fit"].ids.shape[1]
        step = self.cost.block(tokens, STEP)
        if settings.optimiser == "muon":
            block = self.skeleton.fresh_block(1, 0)
            step += sum(_newton_schulz(*sorted(p.shape)) for p in block.parameters() if p.ndim == 2)
        return 2 * self.blocks * settings.steps * step

    def outcome(self, settings: StateSettings) -> Outcome:
        """Build both networks and measure them."""
        maps = {"direct": tuple(range(1, self.blocks + 1)), "YES-0": (self.blocks,)}
        built = {name: self.network(anchors, settings) for name, anchors in maps.items()}
        select = {name: self.loss("select", states["select"]) for name, states in built.items()}
        check = {name: self.loss("check", states["check"]) for name, states in built.items()}
        picked = min(select, key=select.__getitem__)
        return Outcome(settings, self.flops(settings), select[picked], check[picked], check)


def _newton_schulz(short: int, long: int) -> float:
    """Five iterations of two products short × short × long and one short³."""
    return 5 * 2 * (2 * short * short * long + short**3)


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--baseline-steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("bench/out/solver.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lab, console = Lab(arguments.checkpoint, arguments.calibration), Console(width=120)
    trained = lab.loss("check", lab.states["check"][-1])
    tried = [lab.outcome(StateSettings("adamw", arguments.baseline_steps, r, BATCH)) for r in BASELINE_RATES]
    baseline = min(tried, key=lambda o: o.select)
    fewer = [
        lab.outcome(StateSettings("adamw", arguments.baseline_steps // n, baseline.settings.learning_rate, BATCH))
        for n in (2, 5)
    ]
    fast = [lab.outcome(settings) for settings in FAST]
    columns = ("optimiser", "steps", "batch", "rate", "GFLOPs", "of baseline", "bound on check", "direct", "YES-0")
    table = Table("solver", *columns)
    rows: list[dict[str, Any]] = []
    for kind, outcome in (("baseline", baseline), *(("baseline", o) for o in fewer), *(("fast", o) for o in fast)):
        share = outcome.flops / baseline.flops
        rows.append({"kind": kind, "share": share, "check": outcome.check, "steps": outcome.settings.steps})
        table.add_row(
            kind, outcome.settings.optimiser, str(outcome.settings.steps), str(outcome.settings.batch),
            f"{outcome.settings.learning_rate:g}", f"{outcome.flops / 1e9:.0f}",
            f"1/{1 / share:.1f}", f"{outcome.check:.4f}", f"{outcome.by_map['direct']:.4f}",
            f"{outcome.by_map['YES-0']:.4f}",
        )  # fmt: skip
    console.print(f"trained network on check: {trained:.4f}")
    console.print(table)
    reached = [o for o in fast if o.check <= baseline.check]
    if reached:
        best = min(reached, key=lambda o: o.flops)
        console.print(
            f"The fast solver reaches the baseline's bound in 1/{baseline.flops / best.flops:.1f} of its FLOPs."
        )
    else:
        console.print("The fast solver does not reach the baseline's bound within its largest budget here.")
    save(arguments.out, {"trained": trained, "rows": rows})


if __name__ == "__main__":
    main()
