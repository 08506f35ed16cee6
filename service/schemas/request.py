"""What a user asks for: an audit of one checkpoint on one calibration set."""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, StrictInt, StringConstraints, model_validator

from peelbound.service.schemas.base import Number, Whole, WireModel
from peelbound.workers.errors import RequestError
from peelbound.workers.quantisers.scheme import Scheme


class Provenance(StrEnum):
    """Where the calibration data come from, as the request declares it; it bounds what a verdict may say."""

    TRAINED_ON = "trained_on"
    UNSEEN = "unseen"
    OTHER_DISTRIBUTION = "other_distribution"
    UNKNOWN = "unknown"


class Preset(StrEnum):
    """How much an audit does.

    quick: head control, evidence and block references. standard: also reference networks (YES bounds), a band of the
    peeling matrix and the positive control. exhaustive: every target map, for models of at most 6 blocks.
    """

    QUICK = "quick"
    STANDARD = "standard"
    EXHAUSTIVE = "exhaustive"


def _encodable(text: str) -> str:
    """JSON can escape half of a surrogate pair; neither UTF-8 nor a tokenizer has a form for it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a lone surrogate stands at character {error.start}") from error
    return text


Document = Annotated[str, AfterValidator(_encodable)]
TokenIds = Annotated[list[StrictInt], Field(fail_fast=True)]


_SOURCES = {"uri": "string", "texts": "array", "token_ids": "array"}


MOST_SEQUENCES = 65_536
"""Of one split."""


class Calibration(WireModel):
    """The data an audit measures on: exactly one of `uri`, `texts`, `token_ids`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [name], "properties": {name: {"type": kind}}} for name, kind in _SOURCES.items()]
        }
    )

    uri: str | None = Field(default=None, min_length=1, max_length=2048)
    """`file://`, `s3://` or an absolute path: `.jsonl` (a document a line), `.txt`, or a directory of such files."""
    texts: Annotated[list[Document], Field(fail_fast=True, min_length=1, max_length=100_000)] | None = None
    """Documents inline."""
    token_ids: Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=100_000)] | None = None
    """Documents inline as token ids (each inner list is one document)."""
    text_field: str = Field(default="text", min_length=1, max_length=200)
    """The member of a JSON line that holds the text; a line with `token_ids` instead is taken as ids."""
    provenance: Provenance = Provenance.UNKNOWN
    sequence_length: Whole = Field(default=128, ge=8, le=8192)
    """Tokens in a packed sequence."""
    fit_sequences: Whole = Field(default=64, ge=1, le=MOST_SEQUENCES)
    """Sequences that solvers see, at most."""
    select_sequences: Whole = Field(default=32, ge=1, le=MOST_SEQUENCES)
    """Sequences on which choices are made, at most."""
    check_sequences: Whole = Field(default=96, ge=1, le=MOST_SEQUENCES)
    """Sequences that are only ever measured on, at most."""
    split_seed: Whole = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of uri, texts, token_ids (given: {', '.join(given) or 'none'})")
        return self


def _weight_class(text: str) -> str:
    try:
        return str(Scheme.parse(text))
    except RequestError as error:
        raise ValueError(str(error)) from error


def _low_bit_class(text: str) -> str:
    if Scheme.parse(text).full:
        raise ValueError("full is what the checkpoint is: name a low-bit class, such as int4-g32 or ternary")
    return text


WeightClassName = Annotated[str, StringConstraints(max_length=40), AfterValidator(_weight_class)]
"""A weight class by the text of `Scheme.parse`."""


class SolverName(StrEnum):
    """Who solves state targets from a fresh start: our fast recipe, or the plain tuned AdamW (for the papers')."""

    FAST = "fast"
    BASELINE = "baseline"


class Precision(StrEnum):
    """In what the products of matrices in a block are taken; weights, states, norms and head stay in float32.

    bfloat16 is for GPUs: most CPUs are slower with it, and every loss is off by its rounding.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Rho = Annotated[float, Field(gt=0, le=10)]
Anchors = Annotated[list[Whole], Field(fail_fast=True, min_length=1, max_length=512)]


class AuditOptions(WireModel):
    """Overrides of what the preset decides; None leaves the preset's value. The report shows the resolved values."""

    rhos: Annotated[list[Rho], Field(fail_fast=True, min_length=1, max_length=3)] | None = None
    """Candidate step sizes ρ of the corrected target; the zero step is always a candidate too."""
    block_steps: Whole | None = Field(default=None, ge=1, le=10_000)
    """Optimiser steps of a block reference."""
    block_learning_rate: Number | None = Field(default=None, gt=0, le=1)
    network_solver: SolverName | None = None
    network_steps: Whole | None = Field(default=None, ge=1, le=100_000)
    """Optimiser steps of one peeled block of a reference network, or of each of its halves."""
    network_learning_rate: Number | None = Field(default=None, gt=0, le=1)
    head_steps: Whole | None = Field(default=None, ge=0, le=100_000)
    """Optimiser steps of the head refit and of the head control; 0 leaves the head unchanged."""
    maps: Annotated[list[Anchors], Field(fail_fast=True, max_length=64)] | None = None
    """Target maps by their anchors, e.g. [[1,2,3,4],[4]]; each must hold K and no value twice."""
    matrix_band: Whole | None = Field(default=None, ge=0, le=16)
    """Width of the peeling matrix's band: the block after h[l] fitted to h[l+1] … h[l+band]; 0 leaves it out."""
    positive_control: bool | None = None
    grain: Whole = Field(default=8, ge=1, le=4096)
    """Sequences in one pass; part of the result's identity, never changed by memory or worker count."""
    precision: Precision = Precision.FLOAT32
    """Of the blocks, in every walk and solve; part of the result's identity."""
    compile: bool = False
    """Whether blocks go through `torch.compile`, once for each kind and shape; part of the result's identity."""
    tolerance: Number = Field(default=0.01, gt=0, le=10)
    """The smallest improvement, in nats per token, that matters to the user."""
    weights: WeightClassName | None = None
    """The weight class of the model's linear maps: full, binary, binary-fbi, ternary, ternary-twn, int2 to int8, q4_0,
    q4_1, q5_0, q5_1 or q8_0, with -g32 for groups and +a8 for 8-bit activations. None: found from config and weights.
    `full` solves in full precision whatever the weights are."""


LABEL_LENGTH = 128
Label = Annotated[str, StringConstraints(min_length=1, max_length=LABEL_LENGTH, pattern=r"^[\w.\-/:@+ ]+$")]


class AuditRequest(WireModel):
    """The body of `POST /v1/audits` and of `POST /v1/audits:plan`."""

    checkpoint: str = Field(min_length=1, max_length=2048, examples=["s3://models/run-7/step-800", "file:///data/ckpt"])
    """Directory or prefix with `config.json` and the weights (safetensors, torch or distributed), or a GGUF file."""
    calibration: Calibration
    baseline: str | None = Field(default=None, min_length=1, max_length=2048)
    """The checkpoint before quantisation, of the same architecture: the report then says, block by block, what its
    weights would win back."""
    what_if: Annotated[WeightClassName, AfterValidator(_low_bit_class)] | None = None
    """A weight class that the checkpoint is not of yet: the report then says, block by block, what rounding to it would
    cost, as predicted and as measured, and which blocks should stay in full precision."""
    preset: Preset = Preset.STANDARD
    options: AuditOptions = AuditOptions()
    run: Label | None = None
    """The training run this checkpoint belongs to."""
    step: Whole | None = Field(default=None, ge=0, lt=2**53)
    """The training step of the checkpoint."""
    training_loss: Number | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)
    """The training loss logged at this step, in nats per token; drawn in the run's YES cloud."""
    priority: Whole = Field(default=0, ge=-100, le=100)
    """Of a tenant's audits that wait, those of a higher priority are begun first."""
    deadline_seconds: Number | None = Field(default=None, ge=1, le=30 * 24 * 3600, allow_inf_nan=False)
    """The audit is `failed` with the problem `deadline-exceeded` unless it has ended so long after its submission."""
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=32)
    seed: Whole = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _step_needs_run(self) -> Self:
        if self.step is not None and self.run is None:
            raise ValueError("step is given without run")
        return self

    def identity(self) -> dict[str, Any]:
        """The part of the request that can change a result: not how urgent it is, nor what it was logged with."""
        return self.model_dump(
            mode="json", exclude={"run", "step", "labels", "training_loss", "priority", "deadline_seconds"}
        )
