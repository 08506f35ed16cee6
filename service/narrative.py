"""The verdict on a checkpoint in words. Paths are those of the report; each sentence cites what it rests on."""

from dataclasses import dataclass

from peelbound.service.evidence import BlockJudgement, Evidence, Outcome, Thresholds
from peelbound.service.redundancy_words import Limits, redundancy
from peelbound.service.schemas.report import BlockFinding, Bound, CheckpointVerdict, ControlReport, Interval, Sentence
from peelbound.service.schemas.request import MOST_SEQUENCES, Provenance
from peelbound.service.words import Phrase, compose, enumerated, interval, nats, percent, plain

_TITLES = {
    CheckpointVerdict.IMPROVABLE: "Improvable",
    CheckpointVerdict.ADAPTABLE: "Adaptable to this data",
    CheckpointVerdict.HOLDS: "Holds",
    CheckpointVerdict.NO_GAIN_ON_THIS_DATA: "No gain on this data",
    CheckpointVerdict.IN_SAMPLE_ONLY: "In sample only",
    CheckpointVerdict.INCONCLUSIVE: "Inconclusive",
    CheckpointVerdict.ESTIMATE_ONLY: "Estimates only",
}


@dataclass(frozen=True)
class Narrative:
    """Says an outcome, the most important first."""

    evidence: Evidence
    thresholds: Thresholds
    outcome: Outcome
    blocks: tuple[BlockJudgement, ...]

    def headline(self) -> str:
        """One line: the status, what it rests on, and the blocks that are named."""
        title = _TITLES[self.outcome.status]
        if self._doubtful():
            title += ", but the planted damage was missed"
        parts = [
            self._lead(),
            *self._named(BlockFinding.INERT, "is inert", "are inert"),
            *self._named(BlockFinding.UNTRAINED, "looks untrained", "look untrained"),
            *self._named(BlockFinding.LAGGING, "lags", "lag"),
        ]
        return f"{title}: {'; '.join(part.text for part in parts)}."

    def sentences(self) -> list[Sentence]:
        """The verdict's sentences. A missed positive control comes before a claim that nothing was found."""
        control, bound = self.evidence.positive_control, self.evidence.bound
        said = []
        if control is not None and self._doubtful():
            said.append(self._control(control))
        said += self._status()
        if bound is not None:
            said += [self._network(bound), self._in_sample(bound)]
        if self.evidence.provenance is not Provenance.UNSEEN:
            said.append(self._provenance())
        said += self._limits()
        if control is not None and not self._doubtful():
            said.append(self._control(control))
        reasons = [block.reason for block in self.blocks if block.finding is not BlockFinding.SOUND]
        after = [*self._inert_caveat(), *self._redundancy()]
        return [phrase.sentence() for phrase in said] + reasons + [phrase.sentence() for phrase in after]

    def _found_nothing(self) -> bool:
        return self.outcome.status in (CheckpointVerdict.HOLDS, CheckpointVerdict.NO_GAIN_ON_THIS_DATA)

    def _doubtful(self) -> bool:
        control = self.evidence.positive_control
        return self._found_nothing() and control is not None and not control.damage_seen

    def _lead(self) -> Phrase:
        match self.outcome.status:
            case CheckpointVerdict.ESTIMATE_ONLY:
                return compose("{} check documents are too few to test anything", self._documents())
            case CheckpointVerdict.INCONCLUSIVE if self.outcome.visible is None:
                return compose(
                    "{}, but what gain in a block would have been seen is unknown, since select has only {}",
                    self._nothing(),
                    self._select_documents(),
                )
            case CheckpointVerdict.INCONCLUSIVE:
                return compose(
                    "{}, but a gain below {} nats in a block could have gone unseen", self._nothing(), self._visible()
                )
            case CheckpointVerdict.IN_SAMPLE_ONLY:
                return compose("a reference network is better on the tokens it was fitted to, but {}", self._nothing())
            case CheckpointVerdict.HOLDS | CheckpointVerdict.NO_GAIN_ON_THIS_DATA:
                return compose(
                    "{}, where {} nats in any one block would have been seen", self._nothing(), self._visible()
                )
        if self.outcome.gains.blocks:
            best = self.outcome.gains.blocks[0]
            gain = nats(f"/blocks/{best}/gain/estimate", self.evidence.blocks[best].gain.estimate)
            return compose("re-solving block {} alone gains {} nats on check", self._number(best), gain)
        if self.outcome.gains.network:
            beats = Phrase("a reference network beats both the trained network and the head control on check")
            return self._with_extra(beats)
        gain = nats("/head_control/gain/estimate", self.evidence.head_control.gain.estimate)
        return self._with_extra(compose("refitting the norm and the head alone gains {} nats on check", gain))

    def _with_extra(self, said: Phrase) -> Phrase:
        if not self.outcome.extra_parameters:
            return said
        return compose("{}, with {} parameters more", said, self._extra())

    def _nothing(self) -> Phrase:
        if self.outcome.small and self.outcome.untold:
            return compose("no gain that is shown on check reaches the tolerance of {} nats", self._tolerance())
        if self.outcome.small:
            return compose("no gain on check reaches the tolerance of {} nats", self._tolerance())
        return Phrase("nothing is shown to gain on check" if self.outcome.untold else "nothing gained on check")

    def _named(self, finding: BlockFinding, one: str, many: str) -> list[Phrase]:
        numbers = [self._number(i) for i, block in enumerate(self.blocks) if block.finding is finding]
        if not numbers:
            return []
        return [compose(f"block {{}} {one}" if len(numbers) == 1 else f"blocks {{}} {many}", enumerated(numbers))]

    def _status(self) -> list[Phrase]:
        match self.outcome.status:
            case CheckpointVerdict.ESTIMATE_ONLY:
                return [self._too_few(), self._best_block()]
            case CheckpointVerdict.IMPROVABLE | CheckpointVerdict.ADAPTABLE:
                return [*self._gains(), *self._small_gains()]
            case CheckpointVerdict.INCONCLUSIVE if self.outcome.visible is None:
                return [self._best_block(), *self._small_gains(), self._unknown_power(), *self._untold()]
            case CheckpointVerdict.INCONCLUSIVE:
                return [self._best_block(), *self._small_gains(), self._power(), *self._untold(), self._needed()]
        return [self._best_block(), *self._small_gains(), self._power(), *self._untold()]

    def _limits(self) -> list[Phrase]:
        status = plain("/verdict/status", self.outcome.status.value)
        if self._found_nothing():
            return [compose("This says nothing about longer or rescheduled training.", because=[status])]
        if self.outcome.status in (CheckpointVerdict.IMPROVABLE, CheckpointVerdict.ADAPTABLE):
            schedule = "Gains shrink as the learning rate anneals: compare checkpoints of a run at equal schedule."
            return [compose(schedule, because=[status])]
        return []

    def _too_few(self) -> Phrase:
        needed = plain("/settings/thresholds/check_documents", self.thresholds.check_documents)
        return compose(
            "Nothing is tested: check has {} documents, {} are needed; the numbers are estimates.",
            self._documents(),
            needed,
        )

    def _best_block(self) -> Phrase:
        """What came closest to a gain, where none is claimed."""
        blocks = self.evidence.blocks
        count = plain("/checkpoint/blocks", len(blocks))
        tried = [i for i, block in enumerate(blocks) if block.chosen_rho > 0]
        if not tried:
            rhos = [plain(f"/blocks/{i}/chosen_rho", block.chosen_rho) for i, block in enumerate(blocks)]
            return compose(
                "On select no step of re-solving any of the {} blocks was better than none.", count, because=rhos
            )
        best = max(tried, key=lambda i: blocks[i].gain.estimate)
        return compose(
            "The best of the {} blocks, each re-solved by itself, is block {}: a gain of {} nats {} on check.",
            count,
            self._number(best),
            *self._measured(f"/blocks/{best}/gain", blocks[best].gain),
        )

    def _gains(self) -> list[Phrase]:
        said = []
        if self.outcome.gains.blocks:
            first, *rest = self.outcome.gains.blocks
            gain = self.evidence.blocks[first].gain
            said.append(
                compose(
                    "Re-solving block {} alone gains {} nats {} on {} check documents.",
                    self._number(first),
                    *self._measured(f"/blocks/{first}/gain", gain),
                    self._documents(),
                )
            )
            if gain.estimate < self.evidence.tolerance:
                estimate = nats(f"/blocks/{first}/gain/estimate", gain.estimate)
                less = "That is less than the tolerance of {} nats."
                said.append(compose(less, self._tolerance(), because=[estimate]))
            if rest:
                said.append(self._further_gains(rest))
        if self.outcome.gains.head:
            said.append(
                compose(
                    "Refitting the norm and the head alone gains {} nats {} on check: that gain is not a block's.",
                    *self._measured("/head_control/gain", self.evidence.head_control.gain),
                )
            )
        if self.outcome.extra_parameters:
            said.append(
                compose(
                    "No network of the checkpoint's own size is shown to be better: its head is tied to the embedding, "
                    "a refitted one is not, which makes {} parameters more.",
                    self._extra(),
                )
            )
        return said

    def _small_gains(self) -> list[Phrase]:
        """What is shown to gain, and to gain less than matters: `holds` does not mean that nothing did."""
        small, picked = self.outcome.small, self.evidence.picked_network()
        who = [compose("block {}", self._number(position)) for position in small.blocks]
        shown = [(f"/blocks/{i}/gain", self.evidence.blocks[i].gain) for i in small.blocks]
        if small.network and picked is not None:
            network = self.evidence.networks[picked]
            who.append(compose("the reference network {}", plain(f"/networks/{picked}/name", network.name)))
            wins = {"gain": network.gain, "gain_over_control": network.gain_over_control}
            shown += [(f"/networks/{picked}/{name}", win) for name, win in wins.items() if win is not None]
        if small.head:
            who.append(Phrase("the norm and the head, refitted alone"))
            shown.append(("/head_control/gain", self.evidence.head_control.gain))
        if not who:
            return []
        ends = [nats(f"{path}/{end}", getattr(win, end)) for path, win in shown for end in ("low", "high")]
        said = "Shown to gain, and to gain less than the tolerance of {} nats: {}."
        return [compose(said, self._tolerance(), enumerated(who), because=ends)]

    def _further_gains(self, positions: list[int]) -> Phrase:
        who = "Block {} gains too" if len(positions) == 1 else "Blocks {} gain too, each by itself"
        return compose(
            f"{who}; the gains of single blocks do not add up.",
            enumerated([self._number(i) for i in positions]),
            because=[nats(f"/blocks/{i}/gain/low", self.evidence.blocks[i].gain.low) for i in positions],
        )

    def _power(self) -> Phrase:
        return compose(
            "A gain of {} nats in any one block would have been seen on {} documents four times in five; "
            "the tolerance is {}.",
            self._visible(),
            self._documents(),
            self._tolerance(),
        )

    def _unknown_power(self) -> Phrase:
        """Where select turned steps down on too few documents to tell how much their gains vary."""
        blocks = enumerate(self.evidence.blocks)
        left = [self._number(i) for i, block in blocks if block.smallest_visible_effect is None]
        who = "block {}" if len(left) == 1 else "blocks {}"
        return compose(
            f"What gain would have been seen in {who} is unknown: select turned down re-solving there, and has {{}} "
            "where {} would tell; supply more text, or let select have more sequences (--select-sequences).",
            enumerated(left),
            self._select_documents(),
            plain("/settings/thresholds/select_documents", self.thresholds.select_documents),
        )

    def _untold(self) -> list[Phrase]:
        """Who else may gain as much as matters: the power is that of single blocks."""
        untold, picked = self.outcome.untold, self.evidence.picked_network()
        said = []
        if untold.network and picked is not None:
            network, path = self.evidence.networks[picked], f"/networks/{picked}"
            wins = {
                "gain": ("trained network", network.gain),
                "gain_over_control": ("head control", network.gain_over_control),
            }
            said += [
                compose(
                    f"Not so for the reference network {{}}: its gain of {{}} nats {{}} over the {other} is not shown, "
                    "and may exceed the tolerance.",
                    plain(f"{path}/name", network.name),
                    *self._measured(f"{path}/{name}", win),
                )
                for name, (other, win) in wins.items()
                if win is not None and win.low <= 0
            ]
        if untold.head:
            said.append(
                compose(
                    "Not so for the norm and the head, refitted alone: their gain of {} nats {} is not shown, and may "
                    "exceed the tolerance.",
                    *self._measured("/head_control/gain", self.evidence.head_control.gain),
                )
            )
        return said

    def _needed(self) -> Phrase:
        needed = plain("/verdict/documents_needed", self.outcome.documents_needed)
        more = self.outcome.more_text
        assert more is not None
        sequences = plain("/verdict/check_sequences_needed", more.check_sequences)
        in_all = plain("/verdict/documents_in_all", more.documents)
        if more.check_sequences > MOST_SEQUENCES:
            said = "About {} check documents would do, more than an audit takes; a larger tolerance needs fewer."
            return compose(said, needed, because=[sequences])
        return compose(
            "About {} check documents would do: supply at least {} in all, and let check have {} sequences "
            "(--check-sequences).",
            needed,
            in_all,
            sequences,
        )

    def _network(self, bound: Bound) -> Phrase:
        name = plain("/bound/check_network", bound.check_network)
        position = self.evidence.picked_network()
        assert position is not None
        gain, over_control = self.evidence.networks[position].gain, self.evidence.networks[position].gain_over_control
        if gain is None or over_control is None:
            loss = nats("/bound/check_loss", bound.check_loss)
            return compose("The reference network that select picked, {}, reaches {} nats on check.", name, loss)
        return compose(
            "The reference network that select picked, {}, has a gain of {} nats {} over the trained network on check "
            "and of {} nats {} over the head control.",
            name,
            *self._measured(f"/networks/{position}/gain", gain),
            *self._measured(f"/networks/{position}/gain_over_control", over_control),
        )

    def _in_sample(self, bound: Bound) -> Phrase:
        losses = compose(
            "On fit the bound is {} nats ({}), the trained network at {}, the head control at {}",
            nats("/bound/fit_loss", bound.fit_loss),
            plain("/bound/network", bound.network),
            nats("/trained/fit", self.evidence.trained.fit),
            nats("/head_control/fit_loss", self.evidence.head_control.fit_loss),
        )
        below_trained = plain("/bound/below_trained_on_fit", bound.below_trained_on_fit)
        below_control = plain("/bound/below_control_on_fit", bound.below_control_on_fit)
        if not bound.below_trained_on_fit:
            return compose("{}: no reference network wins even in sample.", losses, because=[below_trained])
        if not bound.below_control_on_fit:
            return compose("{}: refitting the head explains all that was won.", losses, because=[below_control])
        if bound.control_share is None:
            return compose("{}.", losses, because=[below_trained, below_control])
        part = percent("/bound/control_share", bound.control_share)
        return compose("{}: refitting the head alone explains {}% of what was won.", losses, part)

    def _provenance(self) -> Phrase:
        declared = plain("/calibration/provenance", self.evidence.provenance.value)
        return compose(
            "The calibration data are declared {}: only unseen data of the training distribution can show that a "
            "checkpoint is improvable or holds.",
            declared,
        )

    def _control(self, control: ControlReport) -> Phrase:
        damage = self._damage(control)
        block = plain("/positive_control/block", control.block)
        seen = plain("/positive_control/damage_seen", control.damage_seen)
        right = plain("/positive_control/right_block_named", control.right_block_named)
        if not control.damage_seen:
            return compose(
                "The positive control was missed: {}, planted in block {} of a copy, was not seen, so damage of that "
                "size may be here unseen too.",
                damage,
                block,
                because=[seen],
            )
        found = compose("The positive control was seen: {}, planted in block {} of a copy", damage, block)
        if control.right_block_named:
            return compose("{}, was noticed and the right block named.", found, because=[seen, right])
        named = plain("/positive_control/named_block", control.named_block)
        if control.named_block is None:
            return compose("{}, was noticed, but no block was named.", found, because=[seen, named])
        return compose("{}, was noticed, but block {} was named.", found, named, because=[seen, right])

    def _damage(self, control: ControlReport) -> Phrase:
        """What was planted, by its cost; noise can turn out to cost nothing that could be measured."""
        if control.planted_cost > 0 and control.measured_cost.low > 0:
            return compose("damage of {} nats", nats("/positive_control/planted_cost", control.planted_cost))
        return compose(
            "noise that is not shown to cost anything on check, {} nats {}",
            *self._measured("/positive_control/measured_cost", control.measured_cost),
        )

    def _inert_caveat(self) -> list[Phrase]:
        inert = [i for i, block in enumerate(self.blocks) if block.finding is BlockFinding.INERT]
        if not inert:
            return []
        findings = [plain(f"/blocks/{i}/finding", BlockFinding.INERT.value) for i in inert]
        caveat = "An inert block is a finding, not always a fault: late blocks of sound models can be like that."
        return [compose(caveat, because=findings)]

    def _redundancy(self) -> list[Phrase]:
        if self.outcome.status is CheckpointVerdict.ESTIMATE_ONLY:
            return []
        limits = Limits(
            documents=self._select_documents(),
            enough=plain("/settings/thresholds/check_documents", self.thresholds.check_documents),
            tolerance=self._tolerance(),
            level=percent("/settings/thresholds/level", self.thresholds.level),
        )
        return redundancy(self.evidence.matrix, limits)

    def _number(self, position: int) -> Phrase:
        return plain(f"/blocks/{position}/index", position + 1)

    def _extra(self) -> Phrase:
        return plain("/verdict/extra_parameters", self.outcome.extra_parameters)

    def _documents(self) -> Phrase:
        return plain("/calibration/splits/check/documents", self.evidence.check_documents)

    def _select_documents(self) -> Phrase:
        documents = plain("/calibration/splits/select/documents", self.evidence.select_documents)
        return compose("{} document" if self.evidence.select_documents == 1 else "{} documents", documents)

    def _tolerance(self) -> Phrase:
        return plain("/request/options/tolerance", self.evidence.tolerance)

    def _visible(self) -> Phrase:
        assert self.outcome.visible is not None
        return nats("/verdict/smallest_visible_effect", self.outcome.visible)

    def _measured(self, path: str, value: Interval) -> tuple[Phrase, Phrase]:
        level = percent("/settings/thresholds/level", self.thresholds.level)
        return nats(f"{path}/estimate", value.estimate), interval(path, value, level)
