"""The options that make up an audit request, shared by `audit` and `plan`."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from peelbound.cli.lifetime import Lifetime
from peelbound.cli.output import said
from peelbound.cli.places import Place
from peelbound.service.schemas.request import AuditRequest, Precision, Preset, Provenance

F = TypeVar("F", bound=Callable[..., Any])

_FIELDS = ("preset", "what_if", "run", "step", "training_loss", "priority", "seed")
_NUMERICS = ("tolerance", "precision", "compile")
_CALIBRATION = (
    "provenance",
    "text_field",
    "sequence_length",
    "fit_sequences",
    "select_sequences",
    "check_sequences",
    "split_seed",
)


def request_options(command: F) -> F:
    """Declare the options on a command, which gets them as one `AuditRequest` in `request`."""

    @functools.wraps(command)
    def with_request(**given: Any) -> Any:
        fields = {name: given.pop(name) for name in _FIELDS}
        data = {name: given.pop(name) for name in _CALIBRATION}
        options = {name: given.pop(name) for name in _NUMERICS} | {"maps": _maps(given.pop("anchors"))}
        deadline = given.pop("deadline")
        body = fields | {
            "deadline_seconds": None if deadline is None else deadline.total_seconds(),
            "checkpoint": given.pop("checkpoint"),
            "baseline": given.pop("baseline"),
            "calibration": _without_none(data | {"uri": given.pop("calibration")}),
            "options": _without_none(options),
            "labels": dict(_pair(text) for text in given.pop("label")),
        }
        try:
            request = AuditRequest.model_validate(_without_none(body))
        except ValidationError as error:
            raise click.UsageError(said(error)) from None
        return command(request=request, **given)

    for option in reversed(_OPTIONS):
        with_request = option(with_request)
    return with_request  # type: ignore[return-value]


_OPTIONS = (
    click.argument("checkpoint", type=Place()),
    click.option(
        "--calibration",
        type=Place(),
        required=True,
        metavar="FILE|DIR|URI",
        help="Text to measure on: .jsonl, .txt, or a directory of such files.",
    ),
    click.option(
        "--preset",
        type=click.Choice([preset.value for preset in Preset]),
        help="quick: the blocks alone; standard: also reference networks, the peeling matrix and a planted damage; "
        "exhaustive: every target map, of at most 6 blocks.  [default: standard]",
    ),
    click.option(
        "--provenance",
        type=click.Choice([kind.value for kind in Provenance]),
        help="Whether training saw the calibration data; it bounds what the verdict may say.  [default: unknown]",
    ),
    click.option(
        "--baseline",
        type=Place(),
        metavar="DIR|URI",
        help="The checkpoint before quantisation: say block by block what quantisation did.",
    ),
    click.option(
        "--what-if",
        metavar="CLASS",
        help="Ask what rounding the blocks to a weight class would cost, and which must stay as they are: int4-g32, "
        "q4_0, ternary, …",
    ),
    click.option("--run", help="The training run that the checkpoint belongs to."),
    click.option("--step", type=int, metavar="N", help="Its training step; needs --run."),
    click.option("--training-loss", type=float, metavar="NATS", help="The training loss logged at this step."),
    click.option("--priority", type=int, metavar="N", help="Higher is begun first, -100 to 100.  [default: 0]"),
    click.option(
        "--deadline",
        type=Lifetime(),
        metavar="TIME",
        help="Have the service fail the audit unless it ends in 30m, 12h, 2d; at most 30d.  [default: never]",
    ),
    click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated."),
    click.option("--anchors", multiple=True, metavar="1,2,…,K", help="A target map by its anchors; may be repeated."),
    click.option(
        "--tolerance", type=float, metavar="NATS", help="The smallest improvement that matters.  [default: 0.01]"
    ),
    click.option(
        "--precision",
        type=click.Choice([precision.value for precision in Precision]),
        help="Of the products of matrices in blocks; bfloat16 is for GPUs.  [default: float32]",
    ),
    click.option("--compile", is_flag=True, default=None, help="Put blocks through torch.compile."),
    click.option("--text-field", metavar="NAME", help="The member of a JSON line with the text.  [default: text]"),
    click.option("--sequence-length", type=int, metavar="N", help="Tokens in a sequence.  [default: 128]"),
    click.option("--fit-sequences", type=int, metavar="N", help="At most so many are fitted to.  [default: 64]"),
    click.option("--select-sequences", type=int, metavar="N", help="At most so many choose.  [default: 32]"),
    click.option("--check-sequences", type=int, metavar="N", help="At most so many only check.  [default: 96]"),
    click.option("--split-seed", type=int, metavar="N", help="Seed of the split by document.  [default: 0]"),
    click.option("--seed", type=int, metavar="N", help="Seed of everything else random.  [default: 0]"),
)


def _maps(anchors: tuple[str, ...]) -> list[list[int]] | None:
    try:
        return [[int(anchor) for anchor in text.split(",")] for text in anchors] or None
    except ValueError:
        raise click.BadParameter("write numbers with commas between them: 2,4", param_hint="--anchors") from None


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--label")
    return key, value


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
