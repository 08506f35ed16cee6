"""The corrected target against true one-block fine-tuning, at equal steps on equal data.

True fine-tuning sends the cross-entropy's gradient back through the frozen blocks after the one that moves; the
corrected target knows the suffix only by its gradient at the start. Both choose among the same number of settings on
select, the unchanged block included; check is measured once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.stdlib_corpus import Corpus
from peelbound.service.controller.inputs import open_inputs
from peelbound.service.plan import make_plan
from peelbound.service.schemas.request import AuditRequest, Calibration, Provenance
from peelbound.service.settings import Settings
from peelbound.workers import passes, solver
from peelbound.workers.calibration import loss_mask
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.device import upload
from peelbound.workers.passes import Floats
from peelbound.workers.skeleton import Skeleton

TRUE_RATES = (1e-4, 3e-4)
"""Learning rates of true fine-tuning; both were the best ones seen on such models."""


@dataclass
class _Lab:
    skeleton: Skeleton
    checkpoint: Checkpoint
    splits: dict[str, Any]
    states: dict[str, list[Floats]]
    blocks: int
    grain: int

    def block(self, index: int) -> nn.Module:
        return self.skeleton.load_block(index, self.checkpoint.read_part(index).tensors())

    def loss(self, split: str, index: int, block: nn.Module) -> float:
        """CE per token with `block` in place of block `index`."""
        h = passes.forward(self.skeleton, index, block, self.states[split][index - 1], self.grain)
        for later in range(index + 1, self.blocks + 1):
            h = passes.forward(self.skeleton, later, self.block(later), h, self.grain)
        mask = loss_mask(self.splits[split])
        rows = passes.losses(self.skeleton, h, self.splits[split].ids, mask, self.grain)
        return float(rows.sum(dtype=np.float64) / mask.sum())


def compare(checkpoint_path: Path, corpus: Corpus) -> list[dict[str, Any]]:
    """Gain on check of either method for every block, and the ratio of their FLOPs."""
    calibration = Calibration(uri=str(corpus.held_out_path.resolve()), provenance=Provenance.UNSEEN)
    request = AuditRequest(checkpoint=str(checkpoint_path.resolve()), calibration=calibration)
    roots = [str(checkpoint_path.resolve()), str(corpus.directory.resolve())]
    inputs = open_inputs(request, Settings(allow=roots))
    architecture = inputs.checkpoint.architecture
    plan = make_plan(request, architecture.block_count, architecture.hidden_size)
    lab = _prepare(inputs.checkpoint, inputs.calibration.splits, plan.grain)
    gradients = _gradients(lab)
    rows = []
    for index in range(1, lab.blocks + 1):
        base = {split: lab.loss(split, index, lab.block(index)) for split in ("select", "check")}
        corrected = []
        for settings in plan.corrected:
            block = lab.block(index)
            solver.solve_corrected(
                lab.skeleton, index, block, lab.states["fit"][index - 1], lab.states["fit"][index],
                gradients[index], lab.splits["fit"].document.astype(np.int64), settings, lab.grain, lambda _: None,
            )  # fmt: skip
            corrected.append(block)
        true = [_fine_tune(lab, index, rate, plan.corrected[0].steps) for rate in TRUE_RATES]
        ahead = lab.blocks - index
        rows.append(
            {
                "block": index,
                "corrected": _chosen_gain(lab, index, corrected, base),
                "true": _chosen_gain(lab, index, true, base),
                # Forward and both products for the block; forward and one product for each block that follows.
                "flops_ratio": (3 + 2 * ahead) / 3,
            }
        )
    return rows


def _prepare(checkpoint: Checkpoint, splits: dict[str, Any], grain: int) -> _Lab:
    skeleton = Skeleton(checkpoint.architecture, checkpoint.read_part(0).tensors())
    blocks = checkpoint.architecture.block_count
    states = {name: [passes.embed(skeleton, split.ids, grain)] for name, split in splits.items()}
    lab = _Lab(skeleton, checkpoint, splits, states, blocks, grain)
    for index in range(1, blocks + 1):
        for rows in states.values():
            rows.append(passes.forward(skeleton, index, lab.block(index), rows[-1], grain))
    return lab


def _gradients(lab: _Lab) -> dict[int, Floats]:
    """g[l] on fit for l = 1..K."""
    fit = lab.splits["fit"]
    _, gradient = passes.loss_gradient(lab.skeleton, lab.states["fit"][-1], fit.ids, loss_mask(fit), lab.grain)
    found = {lab.blocks: gradient}
    for index in range(lab.blocks, 1, -1):
        states = lab.states["fit"][index - 1]
        found[index - 1] = passes.backward(
            lab.skeleton, index, lab.block(index), states, found[index], lab.grain
        ).gradient
    return found


def _fine_tune(lab: _Lab, index: int, rate: float, steps: int) -> nn.Module:
    """Full-batch Adam with linear decay on the true cross-entropy."""
    block, later = lab.block(index), [lab.block(i) for i in range(index + 1, lab.blocks + 1)]
    parameters = list(block.parameters())
    for p in parameters:
        p.requires_grad_(True)
    optimiser = torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.95))
    fit, mask = lab.splits["fit"], loss_mask(lab.splits["fit"])
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        for part in passes.grains(len(fit.ids), lab.grain):
            h = lab.skeleton.run(index, block, upload(lab.states["fit"][index - 1][part], "cpu"))
            for offset, module in enumerate(later, start=index + 1):
                h = lab.skeleton.run(offset, module, h)
            tokens = passes.Tokens.of(h, upload(fit.ids[part], "cpu"), upload(mask[part], "cpu"))
            total = torch.stack([chunk.losses(lab.skeleton).sum() for chunk in tokens.chunks()]).sum()
            (total / mask.sum()).backward()
        optimiser.step()
    for p in parameters:
        p.requires_grad_(False)
    return block


def _chosen_gain(lab: _Lab, index: int, candidates: list[nn.Module], base: dict[str, float]) -> float:
    """Gain on check of the candidate that select picks; 0 where it picks the unchanged block."""
    on_select = [base["select"] - lab.loss("select", index, block) for block in candidates]
    best = max(range(len(candidates)), key=on_select.__getitem__)
    return base["check"] - lab.loss("check", index, candidates[best]) if on_select[best] > 0 else 0.0
