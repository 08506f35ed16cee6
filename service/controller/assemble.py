"""From measurements to the report. Pure: the same measurements give the same report, to the last byte."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from peelbound.service.baseline import baseline_caveats, baseline_sentences
from peelbound.service.check_size import CheckSize
from peelbound.service.controller.baseline import Baseline, baseline_report
from peelbound.service.controller.block_evidence import accused, block_evidence, bootstrap_seed
from peelbound.service.controller.block_measurements import CHECK, SELECT, BlockMeasurements, Sums
from peelbound.service.controller.networks import HeadResult, Network, cell_name
from peelbound.service.controller.rounding import RoundingMeasurements, what_if_report
from peelbound.service.evidence import BlockEvidence, BlockJudgement, Evidence, Thresholds
from peelbound.service.low_bit import low_bit_caveats, low_bit_sentences
from peelbound.service.more_text import Sequences
from peelbound.service.plan import Plan, target_map
from peelbound.service.rare_documents import rare_document_caveats, redundancy_caveats
from peelbound.service.redundancy import is_redundant
from peelbound.service.schemas.report import (
    BaselineReport,
    BlockBits,
    BlockReport,
    BoundBits,
    CalibrationReport,
    CheckpointReport,
    ControlReport,
    HeadControlReport,
    Interval,
    LossReport,
    LowBitReport,
    MatrixCell,
    NetworkReport,
    Report,
    WhatIfReport,
)
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.statistics import PairedSums, paired_intervals
from peelbound.service.summary import bound_of, summarise
from peelbound.service.verdict import judge
from peelbound.service.what_if import what_if_caveats
from peelbound.workers.tasks import Damage

FIT = "fit"


@dataclass(frozen=True)
class Control:
    """The positive control's measurements."""

    damage: Damage
    measured: BlockMeasurements


@dataclass(frozen=True)
class Bits:
    """Reference networks in full precision beside those of a low-bit model's own class."""

    own: Network
    """Of the class, picked on select among the maps that were solved both ways."""
    free: Network
    """In full precision, picked on select among the same maps."""
    networks: list[Network]
    """All in full precision."""
    free_check: Sums
    """Loss sums of `free` on check."""


@dataclass(frozen=True)
class Measured:
    """Everything that an audit measured."""

    blocks: BlockMeasurements
    head_control: HeadResult
    networks: list[Network]
    check_networks: Mapping[str, Sums]
    """Loss sums on check by network name, and of the head control as `control`."""
    residuals: Mapping[tuple[int, int], float]
    """Of the peeling matrix, by (source, target)."""
    control: Control | None
    bits: Bits | None = None
    rounding: RoundingMeasurements | None = None
    baseline: Baseline | None = None


@dataclass(frozen=True)
class Context:
    """What was audited on what, in the report's own words."""

    request: AuditRequest
    plan: Plan
    calibration: CalibrationReport
    checkpoint: CheckpointReport
    environment: dict[str, str]
    thresholds: Thresholds


class Assembly:
    """Makes the report of one audit."""

    def __init__(self, measured: Measured, context: Context) -> None:
        """Bind to measurements and their context."""
        self._measured, self._context = measured, context
        self._trained = measured.blocks.trained
        self._level = context.thresholds.level
        documents = context.calibration.splits[CHECK].documents
        self._check = CheckSize(documents, context.thresholds.check_documents)
        self._select_tests = context.calibration.splits[SELECT].documents >= context.thresholds.check_documents

    def report(self) -> Report:
        """The whole report."""
        context, measured = self._context, self._measured
        trained, head_control = self._losses(), self._head_control()
        networks = self._networks()
        bound = bound_of(networks, trained.fit, head_control.fit_loss)
        blocks = self._block_evidence(measured.blocks)
        control = self._control(blocks) if measured.control else None
        matrix = self._matrix()
        judgement = judge(
            Evidence(
                trained=trained,
                head_control=head_control,
                networks=tuple(networks),
                bound=bound,
                blocks=blocks,
                positive_control=control,
                matrix=tuple(matrix),
                provenance=context.request.calibration.provenance,
                check_documents=self._check.documents,
                select_documents=context.calibration.splits[SELECT].documents,
                sequences=self._sequences(),
                tolerance=context.plan.tolerance,
            ),
            context.thresholds,
        )
        block_reports = [
            BlockReport(
                index=index,
                finding=judged.finding,
                reason=judged.reason,
                side=judged.side,
                gain=evidence.gain,
                excess_gain=evidence.excess_gain,
                smallest_visible_effect=evidence.smallest_visible_effect,
                candidates=measured.blocks.candidates(index),
                chosen_rho=evidence.chosen_rho,
                skip_cost=evidence.skip_cost,
                block_influence=evidence.block_influence,
                others_influence=judged.others_influence,
                influence_limit=judged.influence_limit,
                gradient_agreement=measured.blocks.agreement(index),
                attention_scale=evidence.attention_scale,
                mlp_scale=evidence.mlp_scale,
                block_scale=_required(measured.blocks.scale("block", index)),
                scale_limit=judged.scale_limit,
                half_limit=judged.half_limit,
                excess_limit=judged.excess_limit,
                weight_norm=self._trained.weight_norms[index - 1],
                spectrum=evidence.spectrum,
                others_departure=judged.others_departure,
                residual=measured.residuals.get((index - 1, index)),
            )
            for index, evidence, judged in zip(measured.blocks.blocks, blocks, judgement.blocks, strict=True)
        ]
        gains = [b.gain for b in blocks] + [n.gain for n in networks if n.gain is not None] + [head_control.gain]
        return Report(
            summary=summarise(
                verdict=judgement.verdict,
                trained=trained,
                head_control=head_control,
                networks=networks,
                bound=bound,
                blocks=block_reports,
                positive_control=control,
            ),
            verdict=judgement.verdict,
            trained=trained,
            head_control=head_control,
            networks=networks,
            bound=bound,
            blocks=block_reports,
            matrix=matrix,
            positive_control=control,
            low_bit=self._low_bit(),
            what_if=self._what_if(),
            baseline=self._baseline(block_reports),
            calibration=context.calibration.model_copy(update={"top_token_share": measured.blocks.top_token_share()}),
            checkpoint=context.checkpoint,
            settings={"plan": _plain(asdict(context.plan)), "thresholds": asdict(context.thresholds)},
            environment=context.environment,
            request=context.request.identity(),
            caveats=self._caveats(gains, matrix),
        )

    def _sequences(self) -> Sequences:
        asked, given = self._context.request.calibration, self._context.calibration
        return Sequences(
            fit=asked.fit_sequences,
            select=asked.select_sequences,
            check=asked.check_sequences,
            length=given.sequence_length,
            checked=given.splits[CHECK].sequences,
        )

    def _losses(self) -> LossReport:
        sums, tokens = self._trained.loss_sums[CHECK], self._trained.tokens[CHECK]
        return LossReport(
            fit=self._trained.loss(FIT),
            select=self._trained.loss(SELECT),
            check=self._interval(PairedSums(sums[:, None], tokens), "trained"),
        )

    def _head_control(self) -> HeadControlReport:
        head, check = self._measured.head_control, self._measured.check_networks["control"]
        return HeadControlReport(
            fit_loss=self._mean(head.loss_sums["fit"], FIT),
            select_loss=self._mean(head.loss_sums["select"], SELECT),
            check_loss=self._mean(check, CHECK),
            gain=self._paired(self._trained.loss_sums[CHECK], check, "head control"),
            head_refitted=head.chosen_step > 0,
            extra_parameters=head.extra_parameters,
        )

    def _networks(self) -> list[NetworkReport]:
        measured = self._measured
        return [self._network(n, measured.check_networks.get(n.name), n.name) for n in measured.networks]

    def _network(self, network: Network, check: Sums | None, seed: str) -> NetworkReport:
        head, control_check = network.head, self._measured.check_networks["control"]
        return NetworkReport(
            name=network.name,
            anchors=list(network.anchors),
            target_map=list(target_map(network.anchors)),
            fit_loss=self._mean(head.loss_sums["fit"], FIT),
            select_loss=self._mean(head.loss_sums["select"], SELECT),
            fit_loss_unchanged_head=self._mean(head.loss_sums["fit_unchanged"], FIT),
            head_refitted=head.chosen_step > 0,
            residuals=network.residuals,
            check_loss=None if check is None else self._mean(check, CHECK),
            gain=None if check is None else self._paired(self._trained.loss_sums[CHECK], check, seed),
            gain_over_control=None if check is None else self._paired(control_check, check, f"{seed} over control"),
        )

    def _low_bit(self) -> LowBitReport | None:
        blocks = self._measured.blocks
        free, prices = blocks.free_gains(), blocks.bit_prices()
        if self._context.plan.weights == "full":
            return None
        bound, moved = self._bound_bits(), blocks.codes_moved()
        found: list[BlockBits] = []
        if free is not None and prices is not None:
            gains = paired_intervals(free, level=self._level, seed=self._seed("free gains")).intervals
            costs = paired_intervals(prices, level=self._level, seed=self._seed("bit prices")).intervals
            found = [
                BlockBits(index=i, free_gain=g, price=p) for i, g, p in zip(blocks.blocks, gains, costs, strict=True)
            ]
        bits = self._measured.bits
        networks = [] if bits is None else bits.networks
        return LowBitReport(
            bound=bound,
            networks=[
                self._network(n, bits.free_check if bits and n is bits.free else None, f"free {n.name}")
                for n in networks
            ],
            blocks=found,
            codes_moved=moved,
            sentences=low_bit_sentences(bound, found, moved, self._level, self._check),
        )

    def _bound_bits(self) -> BoundBits | None:
        bits = self._measured.bits
        if bits is None:
            return None
        trained, own = self._trained.loss_sums[CHECK], self._measured.check_networks[bits.own.name]
        return BoundBits(
            network=bits.own.name,
            free_network=bits.free.name,
            loss=self._mean(own, CHECK),
            free_loss=self._mean(bits.free_check, CHECK),
            unfinished=self._paired(trained, own, "unfinished"),
            price=self._paired(own, bits.free_check, "price of the bits"),
            total=self._paired(trained, bits.free_check, "total"),
        )

    def _baseline(self, blocks: Sequence[BlockReport]) -> BaselineReport | None:
        baseline = self._measured.baseline
        if baseline is None:
            return None
        found = baseline_report(baseline, self._measured.blocks, level=self._level, seed_of=self._seed)
        return found.model_copy(update={"sentences": baseline_sentences(found, blocks, self._level, self._check)})

    def _what_if(self) -> WhatIfReport | None:
        rounding = self._measured.rounding
        if rounding is None:
            return None
        return what_if_report(
            rounding,
            tolerance=self._context.plan.tolerance,
            level=self._level,
            check=self._check,
            seed_of=self._seed,
        )

    def _matrix(self) -> list[MatrixCell]:
        cells = list(self._measured.residuals)
        # What decides is a family of its own: a fresh block in the place of one replaces nothing.
        several = [(source, target) for source, target in cells if target - source > 1]
        single = [cell for cell in cells if cell not in several]
        costs = {**self._costs(single, "matrix"), **self._costs(several, "stretches")}
        tested = self._check.tests and self._select_tests
        tolerance = self._context.plan.tolerance
        return [
            MatrixCell(
                source=s,
                target=t,
                residual=self._measured.residuals[s, t],
                loss_increase=costs[s, t],
                redundant=is_redundant(costs[s, t], tolerance) if tested and (s, t) in several else None,
            )
            for s, t in cells
        ]

    def _costs(self, cells: Sequence[tuple[int, int]], name: str) -> dict[tuple[int, int], Interval]:
        """Loss increase of each cell on select, by intervals that hold jointly."""
        if not cells:
            return {}
        rows = [self._measured.blocks.select_increase(cell_name(*cell)) for cell in cells]
        joint = PairedSums(np.concatenate([r.difference_sums for r in rows], axis=1), rows[0].tokens)
        found = paired_intervals(joint, level=self._level, seed=self._seed(name)).intervals
        return dict(zip(cells, found, strict=True))

    def _block_evidence(self, blocks: BlockMeasurements) -> tuple[BlockEvidence, ...]:
        return block_evidence(blocks, self._context.thresholds, self._context.plan.seed)

    def _named(self, evidence: Sequence[BlockEvidence]) -> dict[int, BlockJudgement]:
        return accused(evidence, self._check.documents, self._context.thresholds)

    def _control(self, undamaged: Sequence[BlockEvidence]) -> ControlReport:
        control = self._measured.control
        assert control is not None
        blocks, index = control.measured, control.damage.block
        evidence = self._block_evidence(blocks)
        before = self._named(undamaged)
        # The copy is solved with the longest step alone, the audited network with the best of several, so that a block
        # far from the damage can be named because steps differ. What damage does, it does there or next to it.
        near = {
            i: judged.suspicion
            for i, judged in self._named(evidence).items()
            if i not in before and abs(i - index) <= 1
        }
        named = max(near, key=lambda i: near[i]) if near else None
        seen = named is not None
        cost = self._paired(blocks.trained.loss_sums[CHECK], self._trained.loss_sums[CHECK], "planted cost")
        damaged = evidence[index - 1]
        detail = f"Weight noise of {control.damage.sigma:g} standard deviations in block {index} was " + (
            f"seen, and block {named} was named."
            if seen
            else "not seen: neither it nor a neighbour is named that was not named before."
        )
        return ControlReport(
            block=index,
            noise=control.damage.sigma,
            planted_cost=blocks.trained.loss(SELECT) - self._trained.loss(SELECT),
            measured_cost=cost,
            damage_seen=seen,
            named_block=named,
            right_block_named=named == index,
            gain=damaged.gain,
            attention_scale=damaged.attention_scale,
            mlp_scale=damaged.mlp_scale,
            detail=detail,
        )

    def _caveats(self, gains: Sequence[Interval], matrix: Sequence[MatrixCell]) -> list[str]:
        """`gains`: all on check that the verdict may rest on."""
        caveats = [
            "A bound on fit comes from tokens that its fit saw; compare it with the head control on fit.",
            "Gains shrink whenever the learning rate anneals: compare checkpoints of a run at equal schedule.",
            "A reference that gains nothing at this budget says nothing about longer or rescheduled training.",
            "Scale scores are computed on fit and check; nothing is fitted for them.",
            "Windows are packed without a beginning-of-sequence token, and documents in a window see each other.",
        ]
        if any(self._measured.blocks.scale(kind, 1) is None for kind in ("attention", "mlp")):
            caveats.append("This family's sub-layers could not be told apart: attention and MLP scores are missing.")
        length, stated = self._context.calibration.sequence_length, self._context.checkpoint.stated_positions
        if stated is not None and length > stated:
            caveats.append(
                f"Sequences of {length} tokens are longer than the {stated} that config.json says the model is made "
                "for: losses at the later positions may be those of text that no training saw."
            )
        caveats += low_bit_caveats(
            self._context.checkpoint.weights, freed=self._measured.blocks.free_gains() is not None
        )
        caveats += baseline_caveats() if self._measured.baseline is not None else []
        caveats += what_if_caveats() if self._measured.rounding is not None else []
        if self._check.tests:
            caveats += rare_document_caveats(gains, self._check.documents)
        if matrix:
            caveats.append("The peeling matrix is measured on select, where no choice depends on it but one map.")
            caveats += redundancy_caveats(matrix, self._context.calibration.splits[SELECT].documents)
        return caveats

    def _interval(self, sums: PairedSums, name: str) -> Interval:
        return paired_intervals(sums, level=self._level, seed=self._seed(name)).intervals[0]

    def _paired(self, better: Sums, worse: Sums, name: str) -> Interval:
        """Interval of CE(first) − CE(second) on check."""
        return self._interval(PairedSums((better - worse)[:, None], self._trained.tokens[CHECK]), name)

    def _mean(self, sums: Sums, split: str) -> float:
        return float(sums.sum() / self._trained.tokens[split].sum())

    def _seed(self, name: str) -> int:
        return bootstrap_seed(self._context.plan.seed, name)


def picked_network(networks: Sequence[Network], tokens: Sums) -> Network:
    """The one network that select picks to meet check."""
    losses = [float(n.head.loss_sums["select"].sum() / tokens.sum()) for n in networks]
    return networks[losses.index(min(losses))]


def _required(value: Any) -> Any:
    if value is None:
        raise RuntimeError("a block has no scale score of its own")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
