"""How verdicts and provenance are said: words, and a glyph so that nothing rests on colour."""

from dataclasses import dataclass

from peelbound.service.schemas.report import BlockFinding, CheckpointVerdict


@dataclass(frozen=True)
class Status:
    """How a verdict is shown."""

    words: str
    glyph: str
    tone: str
    """Class of its colours: act, fine or caution."""
    meaning: str


STATUSES = {
    CheckpointVerdict.IMPROVABLE: Status(
        "improvable", "▲", "act", "a competitor built from this checkpoint is better, on unseen data"
    ),
    CheckpointVerdict.HOLDS: Status(
        "holds",
        "✓",
        "fine",
        "no competitor is shown to gain as much as matters, and a block that does would have been seen",
    ),
    CheckpointVerdict.IN_SAMPLE_ONLY: Status(
        "in-sample only", "◐", "caution", "a competitor is better on the tokens that it was fitted to, not on others"
    ),
    CheckpointVerdict.INCONCLUSIVE: Status(
        "inconclusive", "?", "caution", "a gain that matters could have been missed"
    ),
    CheckpointVerdict.ADAPTABLE: Status(
        "adaptable", "▲", "act", "a competitor built from this checkpoint is better on this data"
    ),
    CheckpointVerdict.NO_GAIN_ON_THIS_DATA: Status(
        "no gain on this data", "✓", "fine", "no competitor is shown to gain as much as matters on this data"
    ),
    CheckpointVerdict.ESTIMATE_ONLY: Status(
        "estimate only", "≈", "caution", "too few check documents for a tested verdict"
    ),
}

GLYPHS = {BlockFinding.INERT: "■", BlockFinding.UNTRAINED: "▼", BlockFinding.LAGGING: "▲"}
"""Of blocks that are not sound, in words and in the chart."""

PROVENANCES = {
    "unseen": "The request declares the calibration data as unseen by training.",
    "trained_on": "The request declares that the model was trained on the calibration data: a gain here may be memory.",
    "other_distribution": "The request declares the calibration data as another distribution than training’s: "
    "a gain here may be adaptation, not a fault of training.",
    "unknown": "The request does not say whether training saw the calibration data, "
    "so the verdict speaks of this data only.",
}
"""By `Provenance`; the report holds it as text."""
