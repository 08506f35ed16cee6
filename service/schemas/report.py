"""The report: everything an audit measured, and the verdict that follows from it.

All losses are cross-entropies in nats per token. `gain` is always CE(trained) − CE(competitor): positive means that the
competitor is better. Nothing here depends on when, where or by how many workers the audit was run.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field

from peelbound.service.schemas.base import Measured, WireModel


class CheckpointVerdict(StrEnum):
    """The verdict on a checkpoint: `improvable` and `holds` need provenance `unseen`, other data the second pair."""

    IMPROVABLE = "improvable"
    HOLDS = "holds"
    IN_SAMPLE_ONLY = "in_sample_only"
    INCONCLUSIVE = "inconclusive"
    ADAPTABLE = "adaptable"
    NO_GAIN_ON_THIS_DATA = "no_gain_on_this_data"
    ESTIMATE_ONLY = "estimate_only"
    """Fewer than 30 check documents: numbers without a tested verdict."""


class BlockFinding(StrEnum):
    """The verdict on one block."""

    SOUND = "sound"
    LAGGING = "lagging"
    INERT = "inert"
    UNTRAINED = "untrained"
    """Its weights look as an initialisation leaves them, while those of the other blocks do not."""


class Interval(WireModel):
    """An estimate with its interval, clustered by document."""

    estimate: Measured
    low: Measured
    high: Measured
    standard_error: Measured
    simultaneous: bool = False
    """Whether the interval covers jointly with the others of its family (max-t cluster bootstrap)."""


class Score(WireModel):
    """Scale score: mean per token, clustered by document, of ∂CE/∂s at s=1. z > 0: the output is too strong or harmful;
    z < 0: weak."""

    mean: Measured
    z: Measured


class Citation(WireModel):
    """A number that a sentence rests on: a path into this report and its value there."""

    path: str = Field(examples=["/blocks/2/skip_cost/estimate"])
    value: float | int | str | bool | None


class Sentence(WireModel):
    """One sentence of a verdict with the numbers that it cites."""

    text: str
    cites: list[Citation]


class Verdict(WireModel):
    """The verdict on the checkpoint, in words that each rest on a number."""

    status: CheckpointVerdict
    headline: str
    sentences: list[Sentence]
    smallest_visible_effect: float | None
    """δ80 in nats: the gain in any one block that would have been seen with probability 0.8; None where a block left as
    it was rests on a select of too few documents to tell."""
    documents_needed: int | None = None
    """For `inconclusive`: about how many check documents would do; None where it takes more select documents."""
    check_sequences_needed: int | None = None
    """For `inconclusive`: `calibration.check_sequences` to ask for so that check has them; 65,536 are the most …"""
    documents_in_all: int | None = None
    """… and at least how many documents to supply, fit's and select's included."""
    extra_parameters: int = 0
    """For `improvable` and `adaptable`: parameters that whatever is better has beyond the audited model, an untied
    head; 0 where something of its own size is."""


class BlockCandidate(WireModel):
    """One candidate step of a block reference, measured on select."""

    rho: float
    """0 is the zero step: the trained block."""
    select_gain: Measured
    predicted_gain: Measured
    """What the corrected target's linear term promised on fit."""


class SpectrumReport(WireModel):
    """What a block's weights alone show of training (no data)."""

    departure: Measured
    """Distance of its matrices' singular values from those of random matrices of the same shapes: the z-value of the
    matrix that departs most. Random matrices stay below about 4."""
    matrix: str
    """The matrix that departs most; empty where none varies."""
    constant_norms: bool
    """Whether every norm gain holds one value throughout, as initialisations leave them."""


class BlockReport(WireModel):
    """All evidence on one block. Blocks are numbered 1..K."""

    index: int = Field(ge=1)
    finding: BlockFinding
    reason: Sentence
    side: str | None = None
    """For `lagging` by scale scores, or by half of the block adding nothing: `too_strong` or `too_weak`."""
    gain: Interval
    """CE(trained) − CE(with this block re-solved), on check; the step was chosen on select."""
    excess_gain: Interval | None = None
    """The gain minus the median gain of the other blocks, on check; None for a model of one block."""
    excess_limit: float | None = None
    """Nats that the lower bound of the excess must exceed to accuse this block; it grows with the others' gains."""
    smallest_visible_effect: float | None = None
    """δ80 of this block: the gain of its re-solved block that would have been seen with probability 0.8, in nats; None
    where select left it as it is and has too few documents to tell."""
    candidates: list[BlockCandidate]
    chosen_rho: float
    skip_cost: Interval
    """CE(with this block left out) − CE(trained), on check."""
    block_influence: Measured
    """1 − mean cosine similarity of the block's input and output, on check."""
    others_influence: float | None = None
    """Median block influence of the other blocks; None for a model of one block."""
    influence_limit: float | None = None
    """Influence below which this block is accused if it is shown to matter; None in a model of fewer than six blocks,
    where the first and the last make the median."""
    gradient_agreement: Measured
    """Cosine similarity of the block's parameter gradients on two halves of the fit documents."""
    attention_scale: Score | None
    mlp_scale: Score | None
    block_scale: Score
    scale_limit: float | None = None
    """|z| that both scale scores must exceed, on one side, to accuse this block; it grows with the others' |z|."""
    half_limit: float | None = None
    """z that one scale score alone must exceed, on the side of harm, to accuse this block."""
    weight_norm: Measured
    spectrum: SpectrumReport | None = None
    others_departure: float | None = None
    """Median departure of the other blocks' spectra; None for a model of one block."""
    residual: float | None = None
    """Relative error of a fresh peeled block fitted to this block's own output, on select (standard and above)."""


class NetworkReport(WireModel):
    """A reference network, or the trained network / head control measured in the same way."""

    name: str
    """`YES-0`, `direct`, `YES-1 {3,6}`, …"""
    anchors: list[int]
    target_map: list[int]
    """m(1) … m(K)."""
    fit_loss: Measured
    select_loss: Measured
    fit_loss_unchanged_head: Measured
    head_refitted: bool
    """False where the unchanged head won on select."""
    residuals: list[Measured]
    """Relative error of each peeled block to its target state, on fit."""
    check_loss: float | None = None
    """Only for the candidate that select picked, for YES-0 and for the head control."""
    gain: Interval | None = None
    """CE(trained) − CE(this), on check."""
    gain_over_control: Interval | None = None
    """CE(head control) − CE(this), on check."""


class HeadControlReport(WireModel):
    """Norm and head refitted on the trained states with the reference networks' recipe."""

    fit_loss: Measured
    select_loss: Measured
    check_loss: Measured
    gain: Interval
    head_refitted: bool
    extra_parameters: int
    """Parameters the refit has beyond the audited model (an untied head)."""


class Bound(WireModel):
    """The YES bound: the smallest reference-network loss; achievable by construction."""

    network: str
    fit_loss: Measured
    """The papers' in-sample bound: minimum over maps on fit."""
    check_network: str
    check_loss: Measured
    """The bound on tokens that no fit saw, for the network that select picked."""
    below_trained_on_fit: bool
    below_control_on_fit: bool
    control_share: float | None = None
    """Share (0 to 1) of the gap trained − bound on fit that the head control closes alone; None where there is none."""


class BlockBits(WireModel):
    """A block of a low-bit model, solved in its weight class and in full precision, on check."""

    index: int = Field(ge=1)
    free_gain: Interval
    """CE(trained) − CE(with this block solved in full precision)."""
    price: Interval
    """CE(block reference of the class) − CE(the same in full precision): what the bits of this block cost."""


class BoundBits(WireModel):
    """Reference networks of a low-bit model's class beside the same in full precision, on check.

    CE(trained) − CE(full precision) = unfinished + price: what training left undone within the class, and what the
    bits themselves cost, both as these solvers at this budget see them.
    """

    network: str
    """Of the class, picked on select among the maps that were solved both ways."""
    free_network: str
    """In full precision, picked on select among the same maps."""
    loss: Measured
    free_loss: Measured
    unfinished: Interval
    """CE(trained) − CE(network of the class)."""
    price: Interval
    """CE(network of the class) − CE(network in full precision)."""
    total: Interval
    """CE(trained) − CE(network in full precision)."""


class LowBitReport(WireModel):
    """The price of the bits, told from unfinished training."""

    bound: BoundBits | None
    """None where no reference networks were built (quick)."""
    networks: list[NetworkReport]
    """In full precision."""
    blocks: list[BlockBits]
    codes_moved: list[Measured] = Field(default_factory=list)
    """Share (0 to 1) of each block's codes, 1..K, that solving it in its class moved; the largest over its steps. Where
    none moved, its gain is that of norms and biases alone."""
    sentences: list[Sentence]


class RoundedBlock(WireModel):
    """A block of a full-precision model, rounded to the class that `what_if` names, all others as they are."""

    index: int = Field(ge=1)
    first_order: Measured
    """Σ⟨g, Δ⟩ on fit, with Δ what rounding changes in the block's output and g = ∂ΣCE/∂h: the linear term."""
    predicted_cost: Measured
    """The linear term and ½ Σ⟨g, Δ⟩² over sequences of fit: what is foretold without running the network anew."""
    select_cost: Measured
    """CE(with this block rounded) − CE(trained), on select; decides the order in which blocks are kept."""
    cost: Interval
    """The same on check."""
    recovered: Interval
    """CE(with this block rounded) − CE(the same re-solved in the class), on check."""


class RoundedMix(WireModel):
    """The network with all blocks rounded but a few."""

    kept: list[int]
    """Blocks that stay in full precision."""
    cost: Interval
    """CE(this) − CE(trained), on check."""


class WhatIfReport(WireModel):
    """What rounding the model's blocks to a weight class would cost, before anybody does it."""

    scheme: str
    blocks: list[RoundedBlock]
    mixes: list[RoundedMix]
    """The dearest blocks on select are kept first; the first mix keeps none."""
    enough: int | None
    """Index of the mix that keeps the fewest blocks among those whose cost, the upper end of its interval, lies within
    the tolerance; None: none that was measured does, or check has too few documents to say so."""
    rank_agreement: float | None
    """Spearman's rank correlation of predicted and measured costs over the blocks; None for fewer than three."""
    sentences: list[Sentence]


class DamagedBlock(WireModel):
    """A block of a quantised checkpoint beside the baseline's."""

    index: int = Field(ge=1)
    damage: Interval
    """CE(trained) − CE(with the baseline's block in the place of this one), on check: what quantisation did here.
    `blocks` has what re-solving this block wins."""


class BaselineReport(WireModel):
    """The checkpoint before quantisation beside the audited one."""

    sha256: str
    loss: Measured
    """Of the baseline, with its own embedding and head, on check."""
    damage: Interval
    """CE(trained) − CE(baseline), on check: what quantisation cost altogether."""
    blocks: list[DamagedBlock]
    sentences: list[Sentence]


class MatrixCell(WireModel):
    """Peeling matrix: a fresh block from h[source] to h[target] put in place of blocks source+1 … target."""

    source: int
    target: int
    residual: Measured
    loss_increase: Interval
    """On select; the trained suffix follows."""
    redundant: bool | None = None
    """Whether these blocks, two or more, are shown to be more than their work takes: the increase lies below
    `options.tolerance` with the upper end of its interval. None where that is not tested: a single block, or fewer than
    30 documents of select or of check; and in a report of an earlier version."""


class ControlReport(WireModel):
    """The positive control: a known damage planted in a copy of one block, audited in the same way."""

    block: int
    noise: float
    """Weight noise in units of each matrix's standard deviation."""
    planted_cost: Measured
    """What the damage costs on select, in nats."""
    measured_cost: Interval
    """What it costs on check."""
    damage_seen: bool
    """Whether the evidence names the damaged block or a neighbour, and did not without the damage."""
    named_block: int | None
    """The block that the evidence names first then; None where the damage was not seen."""
    right_block_named: bool
    gain: Interval
    """Gain of the damaged block's reference on check."""
    attention_scale: Score | None
    mlp_scale: Score | None
    detail: str


class SplitReport(WireModel):
    """One split of the calibration set."""

    documents: int
    sequences: int
    tokens: int
    """Tokens with a next-token loss."""
    sha256: str


class CalibrationReport(WireModel):
    """What was measured on."""

    provenance: str
    splits: dict[str, SplitReport]
    duplicates_dropped: int
    sequence_length: int
    top_token_share: float | None = None
    """Share that the top 1% of fit tokens own of Σ‖g‖, g the loss's gradient in a block's output, before the solver
    bounds them; the largest of all blocks."""


class WeightsReport(WireModel):
    """The weight class of the blocks' linear maps: what block references and reference networks are held to."""

    scheme: str
    """`full`, `ternary`, `int4-g32`, `ternary+a8`, …"""
    latent: bool
    """Whether the stored weights are the full-precision ones of quantisation-aware training, rounded on every pass."""
    certainty: str
    """`packed`: the file format says it. `seen`: the weights of block 1 lie on such grids. `declared`: config or
    request say it. `none`: nothing speaks for a low-bit class."""
    why: str
    share: float
    """Of the model's parameters, how many are of the class (0 to 1), taking every block for the first."""
    full_precision_maps: list[str] = Field(default_factory=list)
    """Linear maps of a block that are in full precision all the same."""


class CheckpointReport(WireModel):
    """What was audited."""

    sha256: str
    model_type: str
    architecture: str
    blocks: int
    parameters: int
    bytes: int
    stored_dtypes: list[str]
    tied_embeddings: bool
    stated_positions: int | None = None
    """The longest sequence that config.json says the model is made for; None where it says nothing."""
    weights: WeightsReport | None = None


class LossReport(WireModel):
    """The trained model's own losses."""

    fit: Measured
    select: Measured
    check: Interval


class CloudSummary(WireModel):
    """What a run's YES cloud draws for one step."""

    trained_fit: Measured
    trained_check: Measured
    head_control_fit: Measured
    head_control_check: Measured
    yes0_fit: float | None = None
    yes0_check: float | None = None
    bound_fit: float | None = None
    bound_check: float | None = None


class Summary(WireModel):
    """The report in short: kept with the audit's record."""

    status: CheckpointVerdict
    headline: str
    cloud: CloudSummary
    inert_blocks: list[int]
    lagging_blocks: list[int]
    untrained_blocks: list[int] = Field(default_factory=list)
    best_block: int | None
    best_block_gain: Interval | None
    smallest_visible_effect: float | None
    damage_seen: bool | None = None
    """Of the positive control; None where none was planted."""


class Report(WireModel):
    """`report.json`: canonical, byte-identical for the same request on the same platform."""

    schema_version: int = 1
    summary: Summary
    verdict: Verdict
    trained: LossReport
    head_control: HeadControlReport
    networks: list[NetworkReport]
    bound: Bound | None
    blocks: list[BlockReport]
    matrix: list[MatrixCell]
    positive_control: ControlReport | None
    low_bit: LowBitReport | None = None
    """Only for a model of a low-bit weight class."""
    what_if: WhatIfReport | None = None
    """Only where the request asks it."""
    baseline: BaselineReport | None = None
    """Only where the request names one."""
    calibration: CalibrationReport
    checkpoint: CheckpointReport
    settings: dict[str, Any]
    """The resolved settings of every solver and the thresholds of the verdict."""
    environment: dict[str, str]
    """Versions and the platform fingerprint that results depend on."""
    request: dict[str, Any]
    """The request's part that can change a result: enough to reproduce the audit."""
    caveats: list[str]
    """What these numbers do not say."""
