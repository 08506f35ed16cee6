"""The checkpoint before quantisation: its own loss, and its blocks in the place of the audited one's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from peelbound.service.controller.block_measurements import BlockMeasurements, Sums
from peelbound.service.controller.digests import Digests
from peelbound.service.controller.measurements import Measurements
from peelbound.service.controller.meter import Meter
from peelbound.service.controller.pool import Pool
from peelbound.service.controller.subject import CHECK, Audited, Data
from peelbound.service.controller.walks import Walker
from peelbound.service.schemas.report import BaselineReport, DamagedBlock
from peelbound.service.statistics import PairedSums, paired_intervals
from peelbound.service.storage.base import ObjectStore
from peelbound.workers.errors import pointing
from peelbound.workers.quantisers.weight_class import FULL_PRECISION
from peelbound.workers.recipes import Arithmetic
from peelbound.workers.tasks import Reference

_ASKED = ("baseline", {"split": CHECK})


@dataclass(frozen=True)
class Baseline:
    """A baseline that was walked once, or whose walk is known.

    Attributes:
        audited: on the pool, to be read along.
        digest: of its content.
        losses: loss sums per document of check, of the whole network with its own embedding and head.
    """

    audited: Audited
    digest: str
    losses: Sums

    def references(self) -> list[Reference]:
        """The audited network with one block of the baseline, for each."""
        blocks = range(1, self.audited.blocks + 1)
        return [Reference(baseline_name(i), i, i, baseline=self.digest, free=True) for i in blocks]


def baseline_name(block: int) -> str:
    """Name of the reference with this block of the baseline."""
    return f"block {block} of the baseline"


def walk_baseline(
    audited: Audited,
    data: Data,
    pool: Pool,
    meter: Meter,
    digests: Digests,
    measurements: "BaselineMeasurements",
    arithmetic: Arithmetic,
) -> Baseline:
    """The baseline's loss on check, from its own walk where it is not known; leaves its skeleton on the workers.

    Raises:
        UserError: whatever is wrong with its weights, with the pointer ``/baseline``.
    """
    with pointing("/baseline"):
        known = digests.find()
        found = None if known is None else measurements.of(known).find(*_ASKED)
        if known is not None and found is not None:
            sizes = data.splits[CHECK].ids.size
            meter.unneeded(0, audited.cost.block(sizes, audited.blocks) + audited.cost.head(sizes))
            audited.assume(found["parts"])
            return Baseline(audited, known, np.array(found["losses"]))
        meter.phase("baseline")
        audited.prepare(FULL_PRECISION, arithmetic)
        rows = Walker(audited, data, pool, meter).references(CHECK, [])["trained"]
        digest = audited.digest()
        digests.keep(digest)
        kept = {"losses": data.loss_sums(CHECK, rows).tolist(), "parts": audited.part_digests}
        return Baseline(audited, digest, np.array(measurements.of(digest).measured(*_ASKED, lambda: kept)["losses"]))


@dataclass(frozen=True)
class BaselineMeasurements:
    """Where the baseline's own results lie: under its content, not the audited checkpoint's."""

    store: ObjectStore
    tenant: str
    identity: Mapping[str, Any]
    """What every result depends on, but for the checkpoint."""
    sources: str
    use: Callable[[str], None]
    """Is told of each result before it is looked for or made."""

    def of(self, digest: str) -> Measurements:
        """Those of the baseline of this digest."""
        return Measurements(self.store, self.tenant, {**self.identity, "checkpoint": digest}, self.sources, self.use)


def baseline_report(
    baseline: Baseline, measured: BlockMeasurements, *, level: float, seed_of: Callable[[str], int]
) -> BaselineReport:
    """The section of the report, without its sentences.

    Args:
        baseline: the checkpoint before quantisation.
        measured: of the audited one.
        level: of the intervals.
        seed_of: seeds of the bootstrap by name.
    """
    tokens = measured.trained.tokens[CHECK]
    lost = PairedSums((measured.trained.loss_sums[CHECK] - baseline.losses)[:, None], tokens)
    damages = paired_intervals(baseline_gains(measured), level=level, seed=seed_of("baseline blocks")).intervals
    return BaselineReport(
        sha256=baseline.digest,
        loss=float(baseline.losses.sum() / tokens.sum()),
        damage=paired_intervals(lost, level=level, seed=seed_of("baseline")).intervals[0],
        blocks=[DamagedBlock(index=i, damage=d) for i, d in zip(measured.blocks, damages, strict=True)],
        sentences=[],
    )


def baseline_gains(measured: BlockMeasurements) -> PairedSums:
    """CE(trained) − CE(with a block of the baseline), by block, on check."""
    rows = [measured.check["trained"] - measured.check[baseline_name(block)] for block in measured.blocks]
    return PairedSums(np.stack(rows, axis=1), measured.trained.tokens[CHECK])
