"""What an audit will cost, before it runs."""

from pydantic import Field

from peelbound.service.schemas.base import WireModel


class WalkCost(WireModel):
    """One pass over the checkpoint's blocks."""

    name: str
    bytes_read: int = Field(ge=0)
    flops: float = Field(ge=0)


class AuditPlan(WireModel):
    """`POST /v1/audits:plan`."""

    preset: str
    blocks: int = Field(ge=1)
    parameters: int = Field(ge=1)
    checkpoint_bytes: int = Field(ge=0)
    weights: str = "full"
    """Weight class that the linear maps are taken to be of: of a low-bit model references in full precision are planned
    too."""
    weights_why: str = ""
    """What speaks for it. A plan looks at one linear map only."""
    documents: dict[str, int]
    """Documents per split (fit, select, check)."""
    tokens: dict[str, int]
    """Tokens per split."""
    walks: list[WalkCost]
    problems: dict[str, int]
    """Peel problems by kind: block_reference, reference_network, matrix, positive_control, head."""
    maps: list[list[int]]
    """Anchors of the target maps that will be tried."""
    flops: float = Field(ge=0)
    state_bytes: int = Field(ge=0)
    """Bytes of trained states and gradients kept at the peak."""
    worker_bytes: int = Field(ge=0)
    """Peak memory of one worker above its baseline."""
    result_bytes: int = Field(ge=0)
    """Bytes written to object storage."""
    estimated_seconds: float = Field(ge=0)
    """On the workers configured here, at the FLOP/s the plan assumes."""
    assumed_flops_per_second: float = Field(gt=0)
    workers: int = Field(ge=1)
