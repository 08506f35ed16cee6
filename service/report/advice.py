"""What to do next: a pure function of the report."""

from peelbound.service.redundancy import most_redundant
from peelbound.service.report import numbers
from peelbound.service.schemas.report import BlockFinding, BlockReport, CheckpointVerdict, Report
from peelbound.service.schemas.request import MOST_SEQUENCES


def advice(report: Report) -> list[str]:
    """Short steps, the most telling first."""
    steps = [*_control(report), *_blocks(report), *_checkpoint(report), *_pruning(report)]
    if report.calibration.provenance == "unknown":
        steps.append(
            "Declare where the calibration data come from: only documents that training never saw, declared as "
            "“unseen”, can show that a checkpoint is improvable or holds."
        )
    return steps


def _control(report: Report) -> list[str]:
    control = report.positive_control
    if control is None:
        return []
    if not control.damage_seen:
        return [
            f"Do not lean on silence: the damage planted in block {control.block} was missed. Audit again with more "
            "check documents before you conclude that nothing is wrong."
        ]
    if not control.right_block_named:
        return [
            f"Treat block names as leads: the damage planted in block {control.block} was seen, but "
            + ("no block was named." if control.named_block is None else f"block {control.named_block} was named.")
        ]
    return []


def _blocks(report: Report) -> list[str]:
    inert = [b for b in report.blocks if b.finding is BlockFinding.INERT]
    lagging = [b for b in report.blocks if b.finding is BlockFinding.LAGGING]
    steps = []
    if inert:
        does, it = ("does", "it") if len(inert) == 1 else ("do", "them")
        steps.append(
            f"Find out why {_names(inert)} {does} nothing: compare the weights in two checkpoints, and look for "
            "parameters that are frozen, missing from the optimiser, or left at their initial values. "
            f"If training did reach {it}, leaving {it} out costs almost nothing."
        )
    untrained = [b for b in report.blocks if b.finding is BlockFinding.UNTRAINED]
    if untrained:
        steps.append(
            f"Find out why the weights of {_names(untrained)} look as an initialisation leaves them: parameters that "
            "are frozen, missing from the optimiser, or left out (and made anew) when a checkpoint was loaded."
        )
    faint = [b for b in lagging if _is_faint(b)]
    if faint:
        steps.append(
            f"Look into {_names(faint)}: little comes out beside the other blocks, and it matters. A usual cause is "
            "rounding that no training made up for. It is a finding, not always a fault: compare with an earlier "
            "checkpoint."
        )
    for side, words in _SIDES.items():
        of_side = [b for b in lagging if b.side == side and b not in faint]
        if of_side:
            steps.append(f"Look into {_names(of_side)}: {words}")
    return steps


_SIDES = {
    "too_strong": "the output, or half of it, is too strong or harmful. Usual causes: noise or rounding from "
    "quantisation, a wrong scale after conversion, a learning rate that overshoots there.",
    "too_weak": "the output, or half of it, is too weak. Usual causes: a lost scale factor, too much decay or "
    "clipping, an adapter merged at less than its strength, weights that were lost and are zero.",
    None: "re-solving it alone gains more than re-solving others. Train it longer or at its own learning rate, "
    "and audit the next checkpoint.",
}


def _is_faint(block: BlockReport) -> bool:
    """Whether it is for its influence that a block lags: then its reason cites that limit."""
    return any(cite.path.endswith("/influence_limit") for cite in block.reason.cites)


def _doubtful(report: Report) -> bool:
    """Whether there is something to mend or to look for, whatever the verdict on the checkpoint found."""
    missed = report.positive_control is not None and not report.positive_control.damage_seen
    return missed or any(block.finding is not BlockFinding.SOUND for block in report.blocks)


def _more_text(report: Report) -> str:
    if report.verdict.smallest_visible_effect is None:
        return "more documents, or more of them for select (--select-sequences)"
    needed = report.verdict.documents_needed
    sequences, in_all = report.verdict.check_sequences_needed, report.verdict.documents_in_all
    if needed is None or sequences is None or in_all is None:  # of an earlier version
        return "more check documents"
    if sequences > MOST_SEQUENCES:
        return "a larger --tolerance, since no audit takes the documents that this one needs"
    return (
        f"at least {numbers.count(in_all)} documents and --check-sequences {sequences}, so that check has the "
        f"{numbers.count(needed)} that it needs"
    )


_SCHEDULE = (
    "If the learning rate has not annealed yet, a gain is expected: compare checkpoints at an equal point of the "
    "schedule before calling it a fault."
)


def _names(blocks: list[BlockReport]) -> str:
    indices = [str(b.index) for b in blocks]
    if len(indices) == 1:
        return f"block {indices[0]}"
    return f"blocks {', '.join(indices[:-1])} and {indices[-1]}"


def _pruning(report: Report) -> list[str]:
    """Where the network may be shortened: not while it is to be mended or trained on."""
    shown = most_redundant(report.matrix)
    trains_on = report.verdict.status in (CheckpointVerdict.IMPROVABLE, CheckpointVerdict.ADAPTABLE)
    if not shown or trains_on or _doubtful(report):
        return []
    cell = report.matrix[shown[0]]
    return [
        f"If a shorter network is worth it, start with blocks {cell.source + 1}–{cell.target}: one block in their "
        f"place, fitted to turn h{cell.source} into h{cell.target}, costs {numbers.gain(cell.loss_increase)} nats "
        "before any further training. Replace one stretch at a time, train on for a while, and audit again."
    ]


def _checkpoint(report: Report) -> list[str]:
    status, summary, more = report.verdict.status, report.summary, report.verdict.extra_parameters
    match status:
        case CheckpointVerdict.IMPROVABLE if more:
            return [
                f"Untie the head from the embedding and train on, or leave it: what is better has {numbers.count(more)}"
                " parameters more. That weights of the checkpoint’s own size can be better is not shown.",
                _SCHEDULE,
            ]
        case CheckpointVerdict.IMPROVABLE:
            where = ""
            if summary.best_block_gain is not None and summary.best_block_gain.low > 0:
                gain = numbers.signed(summary.best_block_gain.estimate)
                where = f" Block {summary.best_block} alone gives {gain} nats per token."
            return [
                f"Keep training, or mend it: better weights exist within reach.{where}",
                _SCHEDULE,
            ]
        case CheckpointVerdict.HOLDS if _doubtful(report):
            return []
        case CheckpointVerdict.HOLDS:
            return [
                "Nothing to mend by local means at this budget. Only more or other data, a longer or another schedule, "
                "or a larger model can be expected to help.",
            ]
        case CheckpointVerdict.IN_SAMPLE_ONLY:
            return [
                "Do not act on the gain on fit: it does not carry over to tokens that the solver did not see. Audit "
                "with more fit documents if you want to know whether it would.",
            ]
        case CheckpointVerdict.INCONCLUSIVE:
            return [
                f"Audit again with {_more_text(report)}: this audit could not have seen an effect of the size that "
                "matters.",
            ]
        case CheckpointVerdict.ADAPTABLE:
            could = "the model has not fitted it as well as it could."
            if more:
                could = (
                    f"what fits it better has {numbers.count(more)} parameters more, a head untied from the embedding."
                )
            return [
                f"If this is the data that you serve, fine-tune on it: {could}",
                "To learn whether training itself left something behind, audit on held-out documents of the training "
                "distribution and declare them “unseen”.",
            ]
        case CheckpointVerdict.NO_GAIN_ON_THIS_DATA:
            return [
                "Local re-solving gains nothing on this data. To learn whether the checkpoint holds, audit on held-out "
                "documents of the training distribution and declare them “unseen”.",
            ]
        case CheckpointVerdict.ESTIMATE_ONLY:
            return ["Give at least 30 check documents: below that there are estimates, but no tested verdict."]
