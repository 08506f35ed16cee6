"""The verdict on a checkpoint: a pure function of the evidence.

The first of these that holds is the status:

1. `estimate_only`: too few check documents to test anything.
2. `improvable`: something that was fitted elsewhere is better on check, by an interval that lies above 0 and not wholly
   below the tolerance: a block reference; the reference network that select picked, where it beats the head control as
   well; or the refitted head itself. A gain that is shown to be smaller than the tolerance is real, and said, but does
   not matter to whoever set it: a network that is sound gains a few thousandths of a nat as well. Where only a network
   with an untied head is better, the words say how many parameters more it has.
3. `inconclusive`: nothing is, but a gain as large as the tolerance could have gone unseen, or what would have been seen
   is unknown, since select turned a block's steps down on too few documents. That comes before the next two, which both
   claim that check was looked at well enough. That is computed for single blocks alone: what the network that select
   picked and the head control may gain unseen is said in words and decides nothing.
4. `in_sample_only`: the bound lies below the trained network and the head control on fit. Where the head control
   explains all of it, the peeled blocks have won nothing even in sample, and the verdict goes on.
5. `holds`.

Only data declared `unseen` can yield `improvable` and `holds`; on other data they are called `adaptable` and
`no_gain_on_this_data`. The tests of step 2 are up to three families of intervals, each covering on its own.
"""

from peelbound.service.evidence import Evidence, Gains, Judgement, Outcome, Thresholds
from peelbound.service.findings import judge_blocks
from peelbound.service.more_text import more_text
from peelbound.service.narrative import Narrative
from peelbound.service.schemas.report import CheckpointVerdict, Interval, Verdict
from peelbound.service.schemas.request import Provenance
from peelbound.service.statistics import documents_needed


def judge(evidence: Evidence, thresholds: Thresholds | None = None) -> Judgement:
    """Judge the checkpoint and each of its blocks."""
    thresholds = thresholds or Thresholds()
    blocks = judge_blocks(evidence.blocks, evidence.check_documents, thresholds)
    outcome = _outcome(evidence, thresholds)
    narrative = Narrative(evidence, thresholds, outcome, blocks)
    verdict = Verdict(
        status=outcome.status,
        headline=narrative.headline(),
        sentences=narrative.sentences(),
        smallest_visible_effect=outcome.visible,
        documents_needed=outcome.documents_needed,
        check_sequences_needed=None if outcome.more_text is None else outcome.more_text.check_sequences,
        documents_in_all=None if outcome.more_text is None else outcome.more_text.documents,
        extra_parameters=outcome.extra_parameters,
    )
    return Judgement(verdict, blocks)


def _outcome(evidence: Evidence, thresholds: Thresholds) -> Outcome:
    gains = _gains(evidence, shown=True, matters=True)
    small, untold = _gains(evidence, shown=True, matters=False), _gains(evidence, shown=False, matters=True)
    visible = _visible(evidence)
    status = _status(evidence, thresholds, bool(gains), visible)
    needed = None
    if status is CheckpointVerdict.INCONCLUSIVE and visible is not None:
        needed = documents_needed(evidence.check_documents, visible, evidence.tolerance)
    more = None if needed is None else more_text(needed, evidence.check_documents, evidence.sequences)
    return Outcome(status, gains, small, untold, visible, needed, more, _extra_parameters(evidence, gains))


def _visible(evidence: Evidence) -> float | None:
    """The largest δ80 of a block; unknown as soon as one is."""
    effects = [block.smallest_visible_effect for block in evidence.blocks]
    known = [effect for effect in effects if effect is not None]
    return max(known) if len(known) == len(effects) else None


def _extra_parameters(evidence: Evidence, gains: Gains) -> int:
    """A head that was tied to the embedding is untied before it is refitted; a head that was kept stays tied."""
    picked = evidence.picked_network()
    kept = gains.network and picked is not None and not evidence.networks[picked].head_refitted
    return evidence.head_control.extra_parameters if gains and not gains.blocks and not kept else 0


def _gains(evidence: Evidence, *, shown: bool, matters: bool) -> Gains:
    """Whose gain is shown (its interval lies above 0), or is not, and may matter (it reaches the tolerance), or not."""

    def counts(*wins: Interval) -> bool:
        above = min(win.low for win in wins) > 0
        reaches = min(win.high for win in wins) >= evidence.tolerance
        return (above, reaches) == (shown, matters)

    blocks = [position for position, block in enumerate(evidence.blocks) if counts(block.gain)]
    blocks.sort(key=lambda position: -evidence.blocks[position].gain.estimate)
    picked = evidence.picked_network()
    network = None if picked is None else evidence.networks[picked]
    network_gains = (
        network is not None
        and network.gain is not None
        and network.gain_over_control is not None
        and counts(network.gain, network.gain_over_control)
    )
    return Gains(tuple(blocks), network_gains, counts(evidence.head_control.gain))


def _status(evidence: Evidence, thresholds: Thresholds, gained: bool, visible: float | None) -> CheckpointVerdict:
    unseen = evidence.provenance is Provenance.UNSEEN
    if evidence.check_documents < thresholds.check_documents:
        return CheckpointVerdict.ESTIMATE_ONLY
    if gained:
        return CheckpointVerdict.IMPROVABLE if unseen else CheckpointVerdict.ADAPTABLE
    if visible is None or visible > evidence.tolerance:
        return CheckpointVerdict.INCONCLUSIVE
    bound = evidence.bound
    if bound is not None and bound.below_trained_on_fit and bound.below_control_on_fit:
        return CheckpointVerdict.IN_SAMPLE_ONLY
    return CheckpointVerdict.HOLDS if unseen else CheckpointVerdict.NO_GAIN_ON_THIS_DATA
