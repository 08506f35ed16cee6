"""What a verdict is made from: the report's numbers before anything is said about them."""

from dataclasses import dataclass

from peelbound.service.more_text import MoreText, Sequences
from peelbound.service.schemas.report import (
    BlockFinding,
    Bound,
    CheckpointVerdict,
    ControlReport,
    HeadControlReport,
    Interval,
    LossReport,
    MatrixCell,
    NetworkReport,
    Score,
    Sentence,
    SpectrumReport,
    Verdict,
)
from peelbound.service.schemas.request import Provenance


@dataclass(frozen=True)
class Thresholds:
    """Where findings begin. The report shows them under `settings.thresholds`, where verdicts cite them."""

    level: float = 0.95
    """Of every interval."""
    check_documents: int = 30
    """With fewer nothing is tested."""
    select_documents: int = 6
    """With fewer, what check would have seen of a step that select turned down is unknown: the spread of its gain comes
    from select alone. One document shows none."""
    skip_cost: float = 0.01
    """Nats: an inert block's skip cost has its upper bound below."""
    influence_fraction: float = 0.2
    """An inert block's influence is below this share of the other blocks' median."""
    faint_fraction: float = 0.125
    """A block that is shown to matter, and whose influence is below this share of the other blocks' median, lags …"""
    faint_others: int = 5
    """… where there are so many others: of fewer, the first and the last block, which change their inputs most, make
    the median."""
    excess_gain: float = 0.005
    """Nats: a lagging block's gain exceeds the other blocks' median, with its lower bound, by more …"""
    excess_spread: float = 3.0
    """… and by more than this many times that median: on text unlike the training data all blocks gain, and the first
    block of a sound model 1.6 to 3.1 times the others' median (docs/validity.md)."""
    z_min: float = 6.0
    """A lagging block's scale scores lie on one side, both with a larger |z| …"""
    weak_z_min: float = 8.0
    """… or, where they say that its output is too weak, a larger one than this: text unlike the training data does that
    to sound blocks more than it does harm …"""
    z_spread: float = 2.5
    """… and one larger than this many medians of the same number of the other blocks …"""
    half_z_min: float = 12.0
    """… or one of them alone says harm with a larger z …"""
    half_z_spread: float = 4.0
    """… and one larger than this many medians of all |z| of the other blocks …"""
    beside_missing: float = 2.0
    """… all these limits of z so many times as large beside a block that is inert, untrained or silent in one half:
    others make up for it …"""
    scale_effect: float = 0.01
    """… and, with their lower bounds, matter by more than this: nats per unit of strength. |z| alone grows with the
    number of documents, and no trained network is at its optimum exactly."""
    departure: float = 5.0
    """An untrained block's weights depart from random ones by no more: z-value, the largest of its matrices …"""
    departure_ratio: float = 3.0
    """… and either its norm gains are constant where most others' are not, or even the least of the others departs by
    this many times the limit."""


@dataclass(frozen=True)
class BlockEvidence:
    """The numbers on one block, as `BlockReport` holds them."""

    gain: Interval
    excess_gain: Interval | None
    smallest_visible_effect: float | None
    """From the standard error of the block's best step that is not zero, whether or not that step was chosen: a block
    left as it is differs in nothing and would seem to be measured without error. None where that error would come from
    a select of too few documents."""
    chosen_rho: float
    skip_cost: Interval
    block_influence: float
    attention_scale: Score | None
    mlp_scale: Score | None
    spectrum: SpectrumReport | None = None


@dataclass(frozen=True)
class Evidence:
    """All that the verdict on a checkpoint rests on; `networks`, `blocks` and `matrix` are in the report's order."""

    trained: LossReport
    head_control: HeadControlReport
    networks: tuple[NetworkReport, ...]
    bound: Bound | None
    blocks: tuple[BlockEvidence, ...]
    positive_control: ControlReport | None
    matrix: tuple[MatrixCell, ...]
    provenance: Provenance
    check_documents: int
    select_documents: int
    sequences: Sequences
    tolerance: float
    """Nats: the smallest improvement that matters to the user."""

    def picked_network(self) -> int | None:
        """Position of the one reference network that met check on select's word; None without a bound."""
        names = [network.name for network in self.networks]
        return None if self.bound is None else names.index(self.bound.check_network)


@dataclass(frozen=True)
class Gains:
    """Who beat the trained network on check; `Outcome` says how surely and by how much."""

    blocks: tuple[int, ...] = ()
    """Positions of the blocks whose references did, the largest gain first."""
    network: bool = False
    """Whether the reference network that select picked did, and beat the head control as well."""
    head: bool = False
    """Whether the head control did."""

    def __bool__(self) -> bool:
        return bool(self.blocks) or self.network or self.head


@dataclass(frozen=True)
class Outcome:
    """What follows for the checkpoint, before it is put into words."""

    status: CheckpointVerdict
    gains: Gains
    """Those that may be as large as the tolerance."""
    small: Gains
    """Those that are shown to be smaller than the tolerance: real, and too small to matter to the user."""
    untold: Gains
    """Those that are not shown, and may be as large as the tolerance all the same."""
    visible: float | None
    """δ80 in nats, of the block where it is largest, None where it is unknown of any; of reference networks and of the
    head control it says nothing."""
    documents_needed: int | None
    """For `inconclusive` where `visible` is known."""
    more_text: MoreText | None
    """What that takes."""
    extra_parameters: int = 0
    """Of the smallest that gains: 0 where something of the audited network's own size does."""


@dataclass(frozen=True)
class BlockJudgement:
    """What is said about one block, and the numbers it was compared with, as they go into `BlockReport`."""

    finding: BlockFinding
    reason: Sentence
    side: str | None
    others_influence: float | None
    scale_limit: float | None
    half_limit: float | None = None
    excess_limit: float | None = None
    influence_limit: float | None = None
    others_departure: float | None = None
    suspicion: float = 0.0
    """The strongest evidence against the block as a multiple of its limit; orders blocks, and is in no report."""


@dataclass(frozen=True)
class Judgement:
    """The verdict on the checkpoint and on each block."""

    verdict: Verdict
    blocks: tuple[BlockJudgement, ...]
