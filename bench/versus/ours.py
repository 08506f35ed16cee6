"""Peelbound's side of the table, in a process of its own like the others.

python -m bench.versus.ours audit CHECKPOINT CALIBRATION OUT.json        a quick audit with one worker
python -m bench.versus.ours blocks CHECKPOINT CALIBRATION OUT.json       every block solved afresh, state targets
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.local import local_audits, save
from bench.solver import GRAIN, Lab
from peelbound.service.plan import make_plan
from peelbound.service.schemas.report import BlockFinding
from peelbound.service.schemas.request import AuditRequest, Calibration, Preset, Provenance
from peelbound.workers import passes


def request(checkpoint: Path, calibration: Path) -> AuditRequest:
    """A quick audit on documents that training did not see."""
    return AuditRequest(
        checkpoint=str(checkpoint.resolve()),
        calibration=Calibration(uri=str(calibration.resolve()), provenance=Provenance.UNSEEN),
        preset=Preset.QUICK,
    )


def audit(checkpoint: Path, calibration: Path) -> dict[str, Any]:
    """A quick audit from an empty store."""
    with (
        tempfile.TemporaryDirectory() as state,
        local_audits(Path(state), Path(calibration.anchor), workers=1) as audits,
    ):
        start = time.perf_counter()
        report = audits.run(request(checkpoint, calibration)).report
        seconds = time.perf_counter() - start
    accused = {b.index: b.finding.value for b in report.blocks if b.finding is not BlockFinding.SOUND}
    return {
        "seconds": seconds,
        "score": {b.index: b.gain.estimate for b in report.blocks},
        "score_means": "gain of re-solving the block, nats per token on check; large is suspicious",
        "suspicious": "high",
        "accused": sorted(accused),
        "rule": "the block's finding is other than sound",
        "details": {
            "findings": accused,
            "status": report.verdict.status.value,
            "trained_check": report.trained.check.estimate,
        },
    }


def blocks(checkpoint: Path, calibration: Path) -> dict[str, Any]:
    """Solve every block afresh, trained input to trained output, with the steps and tokens of a plan's networks."""
    torch.set_num_threads(1)
    lab = Lab(checkpoint, calibration)
    plan = make_plan(request(checkpoint, calibration), lab.blocks, lab.checkpoint.architecture.hidden_size)
    start, score = time.perf_counter(), {}
    for index in range(1, lab.blocks + 1):
        before, after = lab.states["fit"][index - 1 : index + 1]
        block = lab.solve(index, index, before, plan.state)
        output = passes.forward(lab.skeleton, index, block, before, GRAIN)
        score[index] = float(((output - after) ** 2).sum() / ((after - before) ** 2).sum())
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "seconds_per_block": seconds / lab.blocks,
        "score": score,
        "score_means": "error of the solved block's output as a share of what the block adds; large is suspicious",
        "suspicious": "high",
        "accused": None,
        "rule": "none: a part of an audit, no detector",
        "details": {"steps": plan.state.steps, "batch": plan.state.batch},
    }


if __name__ == "__main__":
    does = {"audit": audit, "blocks": blocks}[sys.argv[1]]
    save(Path(sys.argv[4]), does(Path(sys.argv[2]), Path(sys.argv[3])))
