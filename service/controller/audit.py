"""One audit from request to report.

Open the checkpoint, pack the calibration set, peel, assemble. Everything solved or measured is kept by its content, so
the whole can be run again after any interruption and continues where it was.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from peelbound import __version__
from peelbound.service.controller.assemble import Assembly, Bits, Context, Control, Measured, picked_network
from peelbound.service.controller.baseline import Baseline, BaselineMeasurements, walk_baseline
from peelbound.service.controller.block_evidence import accused, block_evidence
from peelbound.service.controller.block_measurements import BlockMeasurements, Trained
from peelbound.service.controller.blocks import BlockAudit
from peelbound.service.controller.cost import Sizes
from peelbound.service.controller.digests import Digests
from peelbound.service.controller.inputs import Inputs, open_inputs
from peelbound.service.controller.measurements import Measurements, unannounced
from peelbound.service.controller.meter import Meter
from peelbound.service.controller.networks import Network, NetworkAudit, cell_name
from peelbound.service.controller.placement import Placement
from peelbound.service.controller.pool import Pool
from peelbound.service.controller.positive_control import noise_levels, planted, typical_block
from peelbound.service.controller.subject import CHECK, FIT, SELECT, Audited, Data
from peelbound.service.controller.walks import TrainedWalk, Walker
from peelbound.service.controller.weights import Finder, require_full_precision, require_unquantised, weights_report
from peelbound.service.controller.worker_memory import WorkerMemory
from peelbound.service.evidence import Thresholds
from peelbound.service.plan import Anchors, Plan, make_plan, suggest
from peelbound.service.schemas.record import Progress
from peelbound.service.schemas.report import CalibrationReport, CheckpointReport, Report, SplitReport
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.errors import ObjectCorrupt, ObjectMissing, pointing
from peelbound.workers.keys import canonical, compiler_fingerprint, key_of, platform_fingerprint, source_hash
from peelbound.workers.tasks import Reference
from peelbound.workers.weight_detection import Finding


@dataclass(frozen=True)
class Outcome:
    """What an audit came to."""

    report: bytes
    """Canonical JSON of a `Report`."""
    timings: dict[str, Any]
    """Seconds and shares: apart from the report, which holds nothing that differs from run to run."""


class Audit:
    """Runs one audit on a pool."""

    def __init__(
        self,
        request: AuditRequest,
        tenant: str,
        settings: Settings,
        store: ObjectStore,
        pool: Pool,
        report: Callable[[Progress], None],
        use: Callable[[str], None] = unannounced,
    ) -> None:
        """Bind to a request.

        Args:
            request: what to audit.
            tenant: whose results these are.
            settings: the service's.
            store: where results lie.
            pool: the actors.
            report: gets the progress.
            use: is told of each result by content before it is looked for or made.
        """
        self.request, self.tenant, self.settings = request, tenant, settings
        self.store, self.pool, self.meter, self._use = store, pool, Meter(report), use

    def run(self) -> Outcome:
        """Carry the audit out, as far as its results are not there yet."""
        started = time.monotonic()
        self.meter.phase("reading")
        inputs = open_inputs(self.request, self.settings.of_tenant(self.tenant))
        architecture = inputs.checkpoint.architecture
        plan = make_plan(self.request, architecture.block_count, architecture.hidden_size)
        digests = Digests(self.store, self.tenant, inputs.source, self._use)
        known, original = digests.find(), self._known_baseline(inputs)
        kept = self._find_report(inputs, self._environment(plan), known, original)
        if kept is None:
            return self._peel(inputs, plan, digests, known, original)
        return self._reused(kept, started)

    def _reused(self, report: bytes, started: float) -> Outcome:
        self.meter.phase("done")
        return Outcome(report, {"reused": True, "seconds": time.monotonic() - started})

    def _peel(self, inputs: Inputs, plan: Plan, digests: Digests, known: str | None, original: str | None) -> Outcome:
        pool, checkpoint = self.pool, inputs.checkpoint
        finder = Finder(self.store, self.tenant, checkpoint, self.request.options.weights, self._use)
        weights = finder.find(known)
        require_full_precision(self.request.what_if, weights)
        plan = make_plan(self.request, plan.blocks, checkpoint.architecture.hidden_size, weights.weights.scheme)
        started, before = time.monotonic(), self._environment(plan)
        pool.start(plan.grain, before.get("compiler"))
        environment = self._environment(plan)  # what GPUs there are only the workers know
        if environment != before and (kept := self._find_report(inputs, environment, known, original)):
            return self._reused(kept, started)
        data, audited = Data(inputs.calibration, pool), Audited(checkpoint, pool)
        sizes = Sizes.of(inputs.calibration)
        memory = WorkerMemory.of(plan, audited.cost, sizes, checkpoint.architecture)
        pool.expect(Placement(memory.least, memory.by_method))
        self.meter.plan(sum(plan.problem_counts.values()), audited.cost.total(plan, sizes))
        started, busy, available = time.monotonic(), pool.busy_seconds, pool.worker_seconds
        baseline = self._baseline(inputs, plan, environment, data)
        audited.prepare(weights.weights, plan.arithmetic)
        keep = frozenset({FIT, CHECK} | ({SELECT} if plan.maps or plan.band else set()))
        first: list[TrainedWalk] = []
        if known is None:
            # Every key needs the digest, which takes reading everything: the first walk does so anyhow.
            self.meter.phase("trained_states")
            first.append(Walker(audited, data, pool, self.meter).trained(keep, middles=plan.middles))
            known = audited.digest()
            digests.keep(known)
        finder.keep(known, weights)
        identity = self._identity(known, inputs, plan, environment) | {"weights": asdict(weights.weights)}
        measurements = Measurements(self.store, self.tenant, identity, environment["service"], self._use)
        blocks = BlockAudit(
            audited,
            data,
            pool,
            measurements,
            self.meter,
            plan.corrected,
            keep=keep,
            middles=plan.middles,
            first=first,
            free=plan.free_corrected,
            what_if=plan.what_if,
            baseline=baseline,
        )
        networks = NetworkAudit(audited, data, pool, measurements, self.meter, plan, blocks)
        free = NetworkAudit(audited, data, pool, measurements, self.meter, plan.free, blocks)
        measured = self._measure(blocks, networks, free, plan)
        self.meter.phase("reporting")
        if audited.read_whole:
            digests.verify(known, audited.digest())
        if baseline is not None and baseline.audited.read_whole:
            with pointing("/baseline"):
                digests.verify(baseline.digest, baseline.audited.digest())
        context = Context(
            request=self.request,
            plan=plan,
            calibration=_calibration_report(self.request, inputs, data),
            checkpoint=_checkpoint_report(checkpoint, known, weights),
            environment=environment,
            thresholds=Thresholds(),
        )
        report = canonical(Assembly(measured, context).report().model_dump(mode="json"))
        key = self._report_key(known, inputs, environment, None if baseline is None else baseline.digest)
        self.store.put(key, report, media_type="application/json")
        seconds = time.monotonic() - started
        self.meter.phase("done")
        return Outcome(
            report,
            {
                "reused": False,
                "seconds": seconds,
                "busy_share": (pool.busy_seconds - busy) / max(pool.worker_seconds - available, 1e-9),
                "workers": len(pool),
            }
            | _walked(audited)
            | ({} if baseline is None else {"baseline": _walked(baseline.audited)}),
        )

    def _measure(self, blocks: BlockAudit, networks: NetworkAudit, free: NetworkAudit, plan: Plan) -> Measured:
        trained = blocks.trained()
        residuals, cells = networks.matrix()
        levels = noise_levels(typical_block(trained), plan) if plan.positive_control else []
        measured = blocks.measure([*cells, *levels])
        head_control = networks.head_control()
        maps = self._maps(measured, plan)
        built = networks.networks(maps) if maps else []
        meet_check = []
        if built:
            picked = picked_network(built, trained.tokens[SELECT])
            meet_check = [n for n in built if n is picked or len(n.anchors) == 1]
        bits = self._bits(free, built, trained, plan)
        if bits is not None and bits.own not in meet_check:
            meet_check.append(bits.own)
        check = networks.check_losses(meet_check, head_control)
        networks.forget()
        free.forget()
        control = self._positive_control(blocks, measured, levels, plan) if levels else None
        rounding = blocks.rounding(measured)
        return Measured(measured, head_control, built, check, residuals, control, bits, rounding, blocks.baseline)

    def _bits(self, free: NetworkAudit, built: Sequence[Network], trained: Trained, plan: Plan) -> Bits | None:
        """The networks in full precision beside a low-bit model's, and which two are to be compared on check."""
        own = [n for n in built if n.anchors in plan.free_maps]
        if not own:
            return None
        networks = free.networks(plan.free_maps)
        picked = picked_network(networks, trained.tokens[SELECT])
        check = free.check_losses([picked])[picked.name]
        return Bits(picked_network(own, trained.tokens[SELECT]), picked, networks, check)

    def _baseline(self, inputs: Inputs, plan: Plan, environment: dict[str, str], data: Data) -> Baseline | None:
        """The checkpoint before quantisation, walked by itself first: the workers hold one skeleton at a time."""
        if inputs.baseline is None:
            return None
        digests = Digests(self.store, self.tenant, inputs.baseline.source, self._use)
        with pointing("/baseline"):
            finder = Finder(self.store, self.tenant, inputs.baseline.checkpoint, None, self._use)
            finding = finder.find(digests.find())
            require_unquantised(finding)
        audited = Audited(inputs.baseline.checkpoint, self.pool, "/baseline")
        identity = self._identity("", inputs, plan, environment)
        kept = BaselineMeasurements(self.store, self.tenant, identity, environment["service"], self._use)
        found = walk_baseline(audited, data, self.pool, self.meter, digests, kept, plan.arithmetic)
        finder.keep(found.digest, finding)
        return found

    def _maps(self, measured: BlockMeasurements, plan: Plan) -> list[Anchors]:
        maps = list(plan.maps)
        if plan.suggested_maps:
            costs = {c: float(measured.select_increase(cell_name(*c)).estimates()[0]) for c in plan.matrix_cells}
            maps.append(suggest(costs, plan.blocks, plan.band))
        return list(dict.fromkeys(maps))

    def _positive_control(
        self, blocks: BlockAudit, measured: BlockMeasurements, levels: list[Reference], plan: Plan
    ) -> Control:
        """Audit the copy with the damage that should cost on select what a verdict must not miss.

        The levels rode along when nothing was known of the blocks. Where theirs turned out to be accused, those of
        another take one more walk over select.
        """
        thresholds = Thresholds()
        evidence = block_evidence(measured, thresholds, plan.seed)
        named = accused(evidence, blocks.data.splits[CHECK].documents, thresholds)
        block = typical_block(measured.trained, named)
        if levels[0].leaves != block:
            levels = noise_levels(block, plan)
            measured = replace(measured, select=blocks.losses_of(SELECT, levels))
        costs = {level.name: float(measured.select_increase(level.name).estimates()[0]) for level in levels}
        damage = planted(levels, costs)
        self.meter.phase("positive_control")
        return Control(damage, blocks.damaged(damage, plan.control_steps).measure())

    def _environment(self, plan: Plan) -> dict[str, str]:
        """What a report depends on besides its inputs; `isa` is empty while no worker has said which GPU it has."""
        device = "cuda" if self.settings.worker_gpus else "cpu"
        platform = platform_fingerprint(device)
        if self.settings.worker_gpus:  # the controller's own machine may have another one, or none
            platform["isa"] = self.pool.gpu
        compiler = {"compiler": compiler_fingerprint(device)} if plan.arithmetic.compile else {}
        return {**platform, **compiler, "service": source_hash("service"), "peelbound": __version__}

    def _identity(self, digest: str, inputs: Inputs, plan: Plan, environment: dict[str, str]) -> dict[str, Any]:
        """What every result of this audit depends on; the service's own sources only decide what is said of them."""
        return {
            "checkpoint": digest,
            "splits": {name: split.sha256 for name, split in inputs.calibration.splits.items()},
            "grain": plan.grain,
            "arithmetic": asdict(plan.arithmetic),
            "platform": {k: v for k, v in environment.items() if k not in ("service", "peelbound")},
        }

    def _known_baseline(self, inputs: Inputs) -> str | None:
        """Digest of the baseline's content, if these very files were read before."""
        return (
            None
            if inputs.baseline is None
            else Digests(self.store, self.tenant, inputs.baseline.source, self._use).find()
        )

    def _report_key(self, digest: str, inputs: Inputs, environment: dict[str, str], baseline: str | None) -> str:
        splits = {name: split.sha256 for name, split in inputs.calibration.splits.items()}
        content = {
            "checkpoint": digest,
            "splits": splits,
            "duplicates_dropped": inputs.calibration.duplicates_dropped,
            "environment": environment,
        } | ({} if baseline is None else {"baseline": baseline})
        name = f"tenants/{self.tenant}/results/report/{key_of([self.request.identity(), content])}"
        self._use(name)
        return f"{name}.json"

    def _find_report(
        self, inputs: Inputs, environment: dict[str, str], known: str | None, original: str | None
    ) -> bytes | None:
        """The stored report, where the contents of checkpoint and baseline are `known` and `original`."""
        if known is None or not environment["isa"] or (inputs.baseline is not None and original is None):
            return None
        try:
            return self.store.get(self._report_key(known, inputs, environment, original))
        except (ObjectMissing, ObjectCorrupt):
            return None


def _walked(audited: Audited) -> dict[str, Any]:
    """How often a checkpoint's blocks were walked, and what that read."""
    checkpoint = audited.checkpoint
    return {
        "walks": audited.walks,
        "bytes_read": checkpoint.bytes_read,
        "checkpoint_bytes": checkpoint.total_bytes,
    }


def _calibration_report(request: AuditRequest, inputs: Inputs, data: Data) -> CalibrationReport:
    return CalibrationReport(
        provenance=request.calibration.provenance.value,
        splits={
            name: SplitReport(
                documents=split.documents,
                sequences=len(split.ids),
                tokens=int(data.masks[name].sum()),
                sha256=split.sha256,
            )
            for name, split in inputs.calibration.splits.items()
        },
        duplicates_dropped=inputs.calibration.duplicates_dropped,
        sequence_length=inputs.calibration.sequence_length,
    )


def _checkpoint_report(checkpoint: Checkpoint, digest: str, weights: Finding) -> CheckpointReport:
    architecture = checkpoint.architecture
    return CheckpointReport(
        sha256=digest,
        model_type=architecture.model_type,
        architecture=architecture.name,
        blocks=architecture.block_count,
        parameters=checkpoint.parameters,
        bytes=checkpoint.total_bytes,
        stored_dtypes=checkpoint.dtypes,
        tied_embeddings=architecture.tied_embeddings,
        stated_positions=architecture.stated_positions,
        weights=weights_report(weights, checkpoint),
    )


def parse_report(data: bytes) -> Report:
    """A report from its canonical JSON."""
    return Report.model_validate(json.loads(data))
