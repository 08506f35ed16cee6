"""The rule by which a verdict becomes an exit code."""

from typing import Any

import click

from peelbound.service.schemas.report import CheckpointVerdict, Summary

STATUSES = ("improvable", "adaptable", "in_sample_only", "inconclusive", "estimate_only")
BLOCKS = ("inert", "lagging", "untrained")
CONTROL = ("control_missed",)
DEFAULT = "improvable,adaptable,inconclusive,estimate_only,inert,lagging,untrained"
"""A gain that was found, a block that stands out, and what was measured on too little text to prove anything."""


class FailOn(click.ParamType[frozenset[str]]):
    """A comma list of what must not be found."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        """The set of the names in the list; `never` is the empty set."""
        if isinstance(value, frozenset):
            return value
        names = {name.strip() for name in str(value).split(",")}
        if names == {"never"}:
            return frozenset()
        if unknown := names - {*STATUSES, *BLOCKS, *CONTROL}:
            known = ", ".join((*STATUSES, *BLOCKS, *CONTROL))
            self.fail(f"{', '.join(sorted(unknown))}: choose from {known}; or never, alone.", param, ctx)
        return frozenset(names)


fail_on_option = click.option(
    "--fail-on",
    type=FailOn(),
    default=DEFAULT,
    show_default=True,
    help="Exit with 1 when the verdict is one of these: improvable, adaptable, in_sample_only, inconclusive, "
    "estimate_only (about the checkpoint), inert, lagging, untrained (about any block), control_missed (planted damage "
    "went unseen, so that silence is worth little); or never, alone. By default a verdict that rests on too little "
    "text does not pass either.",
)


def offences(summary: Summary, rule: frozenset[str]) -> list[str]:
    """Which parts of the rule the verdict breaks."""
    found = {CheckpointVerdict(summary.status).value}
    if summary.inert_blocks:
        found.add("inert")
    if summary.lagging_blocks:
        found.add("lagging")
    if summary.untrained_blocks:
        found.add("untrained")
    if summary.damage_seen is False:
        found.add("control_missed")
    return sorted(found & rule)
