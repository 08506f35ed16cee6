"""What the commands print. Text from the service is never read as markup."""

from collections.abc import Iterable

import click
from pydantic import BaseModel, ValidationError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peelbound.service.schemas.plan import AuditPlan
from peelbound.service.schemas.record import AuditRecord
from peelbound.service.schemas.report import BaselineReport, BlockFinding, Interval, Report, Score, WhatIfReport

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_LOG_WIDTH = 110
_STYLES = {
    BlockFinding.SOUND: "",
    BlockFinding.LAGGING: "yellow",
    BlockFinding.INERT: "red",
    BlockFinding.UNTRAINED: "red",
}


def said(error: ValidationError) -> str:
    """What is wrong first of all, after the name of the field, if it is one field's."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def print_json(value: BaseModel) -> None:
    """One JSON document on standard output."""
    click.echo(value.model_dump_json(indent=2))


def print_columns(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Lines of aligned columns, never cut or folded: what is in them is to be copied, or read by programs."""
    lines = [list(titles), *(["".join(c if c.isprintable() else "?" for c in cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def stdout_console() -> Console:
    """Standard output; in a log, which has no width, wide enough for a row of a table to be one line."""
    console = Console()
    return console if console.is_terminal else Console(width=_LOG_WIDTH)


def print_verdict(report: Report, console: Console) -> None:
    """The verdict in words, then a line per block."""
    verdict = report.verdict
    console.print(Text.assemble((verdict.status.replace("_", " "), "bold"), "  ", verdict.headline))
    for sentence in verdict.sentences:
        console.print(Text(f"  {sentence.text}"))
    console.print(block_table(report))
    for title, section in (("low-bit weights", report.low_bit), ("beside the baseline", report.baseline)):
        if section is not None and section.sentences:
            console.print(Text(title, "bold"))
            for sentence in section.sentences:
                console.print(Text(f"  {sentence.text}"))
    if report.baseline is not None:
        console.print(damage_table(report.baseline, report))
    if report.what_if is not None:
        console.print(Text(f"if rounded to {report.what_if.scheme}", "bold"))
        for sentence in report.what_if.sentences:
            console.print(Text(f"  {sentence.text}"))
        console.print(rounding_table(report.what_if))


def block_table(report: Report) -> Table:
    """Evidence per block; losses in nats per token."""
    table = Table(box=box.SIMPLE_HEAD, caption="gain and skip cost in nats per token, on check", caption_justify="left")
    table.add_column("block", justify="right")
    table.add_column("finding")
    table.add_column("gain [interval]", justify="right")
    table.add_column("skip cost", justify="right")
    table.add_column("influence", justify="right")
    table.add_column("z attention", justify="right")
    table.add_column("z MLP", justify="right")
    for block in report.blocks:
        table.add_row(
            str(block.index),
            Text(block.finding, style=_STYLES[block.finding]),
            _interval(block.gain),
            f"{block.skip_cost.estimate:.4f}",
            f"{block.block_influence:.4f}",
            _z(block.attention_scale),
            _z(block.mlp_scale),
        )
    return table


def damage_table(baseline: BaselineReport, report: Report) -> Table:
    """What quantisation did to each block, beside what re-solving it wins; nats per token on check."""
    table = Table(box=box.SIMPLE_HEAD, caption="nats per token, on check", caption_justify="left")
    for name in ("block", "damage [interval]", "won back by re-solving"):
        table.add_column(name, justify="right")
    for damaged, block in zip(baseline.blocks, report.blocks, strict=True):
        table.add_row(str(damaged.index), _interval(damaged.damage), _interval(block.gain))
    return table


def rounding_table(what_if: WhatIfReport) -> Table:
    """What rounding each block would cost, and what the mixes cost; nats per token on check."""
    table = Table(box=box.SIMPLE_HEAD, caption="costs in nats per token, on check", caption_justify="left")
    for name in ("rounded", "foretold", "cost [interval]", "won back by re-solving"):
        table.add_column(name, justify="right")
    for block in what_if.blocks:
        table.add_row(
            f"block {block.index}", f"{block.predicted_cost:+.4f}", _interval(block.cost), _interval(block.recovered)
        )
    for mix in what_if.mixes:
        name = f"all but {', '.join(map(str, mix.kept))}" if mix.kept else "all"
        table.add_row(name, "", _interval(mix.cost), "")
    return table


def record_table(record: AuditRecord) -> Table:
    """One audit, a line per fact."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(record):
        table.add_row(name, Text(value))
    return table


def _facts(record: AuditRecord) -> Iterable[tuple[str, str]]:
    request = record.request
    yield "audit", record.id
    yield "state", record.state + (f", attempt {record.attempt}" if record.attempt > 1 else "")
    yield "checkpoint", request.checkpoint
    if request.run is not None:
        yield "run", request.run + (f", step {request.step}" if request.step is not None else "")
    yield "preset", request.preset
    if request.priority:
        yield "priority", str(request.priority)
    if request.labels:
        yield "labels", ", ".join(f"{key}={value}" for key, value in sorted(request.labels.items()))
    yield "created", f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC"
    if record.started_at is not None and record.ended_at is not None:
        yield "took", f"{(record.ended_at - record.started_at).total_seconds():.1f} s"
    if record.progress is not None and not record.state.ended:
        yield "progress", f"{100 * record.progress.fraction:.0f}%, {record.progress.phase.replace('_', ' ')}"
    if record.summary is not None:
        yield "verdict", f"{record.summary.status.replace('_', ' ')}: {record.summary.headline}"
        yield "inert", _blocks(record.summary.inert_blocks)
        yield "lagging", _blocks(record.summary.lagging_blocks)
        yield "untrained", _blocks(record.summary.untrained_blocks)
    if record.problem is not None:
        yield "problem", f"{record.problem.title}: {record.problem.detail} {record.problem.remedy}".strip()


def audit_table(records: Iterable[AuditRecord]) -> Table:
    """Audits, a line each."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("audit", "state", "checkpoint", "run", "step", "verdict"):
        table.add_column(name, overflow="fold", no_wrap=name == "audit")
    for record in records:
        table.add_row(
            record.id,
            record.state,
            Text(record.request.checkpoint),
            Text(record.request.run or ""),
            "" if record.request.step is None else str(record.request.step),
            "" if record.summary is None else record.summary.status.replace("_", " "),
        )
    return table


def plan_table(plan: AuditPlan) -> Table:
    """What an audit would cost."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in (
        ("preset", plan.preset),
        ("model", f"{plan.blocks} blocks, {plan.parameters:,} parameters, {_size(plan.checkpoint_bytes)}"),
        ("weights", f"{plan.weights}. {plan.weights_why}".strip()),
        ("documents", _counts(plan.documents)),
        ("tokens", _counts(plan.tokens)),
        ("peel problems", _counts(plan.problems)),
        ("target maps", str(len(plan.maps))),
        ("walks", f"{len(plan.walks)}, reading {_size(sum(walk.bytes_read for walk in plan.walks))}"),
        ("states kept", _size(plan.state_bytes)),
        ("memory", f"{_size(plan.worker_bytes)} per worker, {plan.workers} workers"),
        ("results", _size(plan.result_bytes)),
        ("compute", f"{plan.flops:.3g} FLOPs at {plan.assumed_flops_per_second:.3g} FLOP/s"),
        ("time", f"about {plan.estimated_seconds:.0f} s"),
    ):
        table.add_row(name, Text(value))
    return table


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]".replace("[", "\\[")


def _z(score: Score | None) -> str:
    return "" if score is None else f"{score.z:+.1f}"


def _blocks(blocks: list[int]) -> str:
    return ", ".join(f"block {index}" for index in blocks) or "none"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
