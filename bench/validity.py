"""Does the verdict find what is wrong, and accuse nobody else? On models where we know the answer.

    python -m bench.validity [--seeds 5] [--steps 300] [--blocks-only] [--out bench/out/validity]

For each seed, two models of six blocks are trained on the standard library's source: a sound one, and one in which a
block was left frozen by mistake. Both are audited (`standard`) on files that training never saw. Then, on the first
sound model: coverage of the intervals in a null experiment, and the corrected target against equal steps of true
one-block fine-tuning. Thresholds are never tuned on these models' seeds.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.fine_tuning import compare
from bench.local import LocalAudits, local_audits, save
from bench.stdlib_corpus import Corpus
from bench.stdlib_models import Recipe, train_missing
from peelbound.service.controller.inputs import open_inputs
from peelbound.service.controller.subject import loss_sums
from peelbound.service.schemas.report import BlockFinding, Report
from peelbound.service.schemas.request import AuditOptions, AuditRequest, Calibration, Preset, Provenance
from peelbound.service.statistics import PairedSums, paired_intervals
from peelbound.workers.calibration import loss_mask

FIRST_SEED = 100
"""Thresholds were chosen on models of smaller seeds."""
FROZEN = (3, 2, 5, 4, 6)
"""The frozen block of each seed, in turn."""
OPTIONS = AuditOptions(network_steps=160)
"""Reference networks are solved in fewer steps than the preset takes, so that ten audits take half an hour: their
bounds are looser. What is said of blocks does not depend on them."""
BLOCKS_ONLY = AuditOptions(maps=[], matrix_band=0)
"""Without reference networks and matrix: the evidence on blocks and the positive control alone."""


def models(out: Path, corpus: Corpus, seeds: int, steps: int) -> dict[tuple[int, str], Path]:
    """Train what is not trained yet; the checkpoint of each seed and kind."""
    found = {}
    for number in range(seeds):
        seed = FIRST_SEED + number
        recipes = {
            out / f"sound-{seed}": Recipe(seed=seed, steps=steps, save_at=(steps,)),
            out / f"frozen-{seed}": Recipe(
                seed=seed, steps=steps, save_at=(steps,), frozen_block=FROZEN[number % len(FROZEN)]
            ),
        }
        for directory, checkpoint in train_missing(corpus, recipes).items():
            found[seed, directory.name.split("-")[0]] = checkpoint
    return found


def request(checkpoint: Path, corpus: Corpus, options: AuditOptions) -> AuditRequest:
    """A standard audit on files that training did not see."""
    calibration = Calibration(uri=str(corpus.held_out_path.resolve()), provenance=Provenance.UNSEEN)
    return AuditRequest(
        checkpoint=str(checkpoint.resolve()), calibration=calibration, preset=Preset.STANDARD, options=options
    )


def row(seed: int, kind: str, report: Report, frozen: int | None) -> dict[str, Any]:
    """What one audit said, beside what is true."""
    control = report.positive_control
    assert control is not None
    accused = {b.index: b.finding.value for b in report.blocks if b.finding is not BlockFinding.SOUND}
    return {
        "seed": seed,
        "kind": kind,
        "frozen": frozen,
        "status": report.verdict.status.value,
        "trained_check": report.trained.check.estimate,
        "accused": accused,
        "wrongly": sorted(set(accused) - {frozen}),
        "found": None if frozen is None else accused.get(frozen) == BlockFinding.INERT.value,
        "gains": [b.gain.estimate for b in report.blocks],
        "skip_costs": [b.skip_cost.estimate for b in report.blocks],
        "influence": [b.block_influence for b in report.blocks],
        "largest_z": max(abs(s.z) for b in report.blocks for s in (b.attention_scale, b.mlp_scale) if s),
        "control_block": control.block,
        "control_planted": control.planted_cost,
        "control_cost": control.measured_cost.estimate,
        "control_seen": control.damage_seen,
        "control_named": control.right_block_named,
        "bound_check": report.bound.check_loss if report.bound else None,
        "head_control_check": report.head_control.check_loss,
    }


@dataclass(frozen=True)
class Coverage:
    """What simultaneous 95% intervals did where the truth is zero: shares of the samples."""

    draws: int
    documents: int
    """Of each sample."""
    columns: int
    joint: float
    """All intervals contain zero."""
    false_gain: float
    """A lower end lies above zero."""
    false_loss: float
    """An upper end lies below."""
    single: float
    """The interval of the last column alone contains zero."""


def coverage(sums: PairedSums, documents: int, draws: int = 400, replicates: int = 2000) -> Coverage:
    """How often intervals cover, where the truth is known: resampled from real differences.

    The check documents of an audit are taken as the population, with their tokens and with what re-solving each block
    changed in their losses; from it samples of documents are drawn with replacement. The differences are centred, so
    that the truth is zero and a miss is a false claim.
    """
    centred = sums.residuals()
    rng = np.random.default_rng(0)
    joint = gains = losses = single = 0
    for _ in range(draws):
        chosen = rng.integers(0, sums.documents, documents)
        sample = PairedSums(centred[chosen], sums.tokens[chosen])
        found = paired_intervals(sample, replicates=replicates, seed=int(rng.integers(2**31))).intervals
        gain, loss = any(i.low > 0 for i in found), any(i.high < 0 for i in found)
        joint, gains, losses = joint + (not (gain or loss)), gains + gain, losses + loss
        last = PairedSums(sample.difference_sums[:, -1:], sample.tokens)
        alone = paired_intervals(last, replicates=replicates, seed=int(rng.integers(2**31))).intervals[0]
        single += alone.low <= 0 <= alone.high
    shares = (count / draws for count in (joint, gains, losses, single))
    return Coverage(draws, documents, centred.shape[1], *shares)


def _gains_on_check(audits: LocalAudits, asked: AuditRequest) -> PairedSums:
    """Changes of the loss per document, of every block reference that met check, from the audit's own measurement."""
    split = open_inputs(asked, audits.settings).calibration.splits["check"]
    mask = loss_mask(split)
    tokens = loss_sums(split, mask, np.ones_like(mask, dtype=np.float32))
    trained = audits.run(asked).report.trained.check.estimate
    for info in audits.store.list("tenants/bench/results/check/"):
        table = {name: np.array(rows) for name, rows in json.loads(audits.store.get(info.key)).items()}
        same = len(table["trained"]) == len(tokens) and np.isclose(table["trained"].sum() / tokens.sum(), trained)
        gaining = sorted(name for name in table if "rho" in name)
        if same and gaining:
            return PairedSums(np.stack([table["trained"] - table[name] for name in gaining], axis=1), tokens)
    raise LookupError("no check table of this audit")


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print what was found."""
    table = Table("seed", "model", "CE check", "verdict", "accused", "right", "largest |z|", "control", "named")
    for r in rows:
        right = "yes" if not r["wrongly"] and r["found"] is not False else "NO"
        control = f"{'seen' if r['control_seen'] else 'missed'} ({r['control_cost']:.3f})"
        accused = ", ".join(f"{b} {f}" for b, f in r["accused"].items()) or "none"
        kind = r["kind"] if r["frozen"] is None else f"block {r['frozen']} frozen"
        table.add_row(
            str(r["seed"]), kind, f"{r['trained_check']:.3f}", r["status"], accused, right, f"{r['largest_z']:.1f}",
            control, "right" if r["control_named"] else "no",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    """Train, audit, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--blocks-only", action="store_true", help="no reference networks, on which no block depends")
    parser.add_argument("--out", type=Path, default=Path("bench/out/validity"))
    arguments = parser.parse_args()
    console = Console(width=140)
    torch.set_num_threads(1)
    corpus = Corpus.in_directory(arguments.out / "corpus")
    checkpoints = models(arguments.out, corpus, arguments.seeds, arguments.steps)
    options = BLOCKS_ONLY if arguments.blocks_only else OPTIONS
    rows = []
    with local_audits(arguments.out / "state", arguments.out) as audits:
        for (seed, kind), checkpoint in checkpoints.items():
            report = audits.run(request(checkpoint, corpus, options)).report
            frozen = FROZEN[(seed - FIRST_SEED) % len(FROZEN)] if kind == "frozen" else None
            rows.append(row(seed, kind, report, frozen))
            console.print(f"seed {seed} {kind}: {report.verdict.headline}")
            save(arguments.out / "validity.json", rows)
        gains = _gains_on_check(audits, request(checkpoints[FIRST_SEED, "sound"], corpus, options))
    covered = [asdict(coverage(gains, documents)) for documents in (30, 100)]
    show(rows, console)
    for found in covered:
        console.print(f"Coverage of 95% intervals in the null experiment: {found}")
    sound = checkpoints[FIRST_SEED, "sound"]
    compared = compare(sound, corpus)
    fine = Table("block", "corrected: gain on check", "true fine-tuning: gain on check", "FLOPs, true / corrected")
    for r in compared:
        fine.add_row(str(r["block"]), f"{r['corrected']:+.4f}", f"{r['true']:+.4f}", f"{r['flops_ratio']:.1f}")
    console.print(fine)
    save(arguments.out / "validity.json", {"rows": rows, "coverage": covered, "fine_tuning": compared})


if __name__ == "__main__":
    main()
